//! What the arguments ask for.

pub(crate) const USAGE: &str =
    "cargo xtask link-test [--nodes N] [--rho R] [--steps S] [--rounds T] [--json] [--keep] …

As root on Linux with `ip` and `tc`: nodes in network namespaces train over links shaped to a given ρ, the
time that a ring all-reduce of f32 gradients takes over the compute time of a step. First per-step
all-reduce, then Atoll; both with the share of time in which nodes compute, and what was predicted.

--nodes N          nodes, 2 to 16 (4)
--rho R            ρ (100)
--steps S          steps of all-reduce; each takes about (1+ρ) times a step (3)
--rounds T         rounds of Atoll (6)
--inner-steps H    steps of a round (30)
--batch B          sequences of a step of a node (8)
--sequence L       tokens of a sequence (128)
--codec C          auto, dense, int8, int4, sparse-K or lowrank-R (sparse-64)
--overlap O        auto, steps, eager, round or none (auto)
--json             one JSON object as the last line
--keep             leaves the nodes' folders and timed events; namespaces are always removed

Exit code 77: this machine cannot run it (not root, a tool is missing, no namespaces).

Examples:
  cargo xtask link-test --rho 10
  cargo xtask link-test --rho 357 --steps 2 --rounds 10 --json";

/// The arguments, checked.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Options {
    pub(super) nodes: usize,
    pub(super) rho: f64,
    pub(super) steps: u32,
    pub(super) rounds: u32,
    pub(super) inner_steps: u32,
    pub(super) batch: u32,
    pub(super) sequence: u32,
    pub(super) codec: String,
    pub(super) overlap: String,
    pub(super) json: bool,
    pub(super) keep: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 4,
            rho: 100.0,
            steps: 3,
            rounds: 6,
            inner_steps: 30,
            batch: 8,
            sequence: 128,
            codec: "sparse-64".into(),
            overlap: "auto".into(),
            json: false,
            keep: false,
        }
    }
}

/// A number from `least` to `most`.
fn number(name: &str, text: &str, least: u32, most: u32) -> Result<u32, String> {
    let parsed = text.parse().ok().filter(|number| (least..=most).contains(number));
    parsed.ok_or(format!(
        "{name} {text}: a whole number from {least} to {most} is needed"
    ))
}

impl Options {
    pub(super) fn parse(words: &[&str]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut words = words.iter();
        while let Some(name) = words.next() {
            let mut value = || words.next().copied().ok_or(format!("{name} needs a value"));
            match *name {
                "--json" => options.json = true,
                "--keep" => options.keep = true,
                "--nodes" => options.nodes = number(name, value()?, 2, 16)? as usize,
                "--rho" => options.rho = rho(value()?)?,
                "--steps" => options.steps = number(name, value()?, 1, 10_000)?,
                "--rounds" => options.rounds = number(name, value()?, 1, 10_000)?,
                "--inner-steps" => options.inner_steps = number(name, value()?, 1, 10_000)?,
                "--batch" => options.batch = number(name, value()?, 1, 1024)?,
                "--sequence" => options.sequence = number(name, value()?, 1, 128)?,
                "--codec" => options.codec = value()?.into(), // `atoll found` knows what is allowed
                "--overlap" => options.overlap = value()?.into(),
                other => return Err(format!("{other} is unknown\n\nusage: {USAGE}")),
            }
        }
        Ok(options)
    }
}

fn rho(text: &str) -> Result<f64, String> {
    let parsed = text.parse().ok().filter(|rho| (0.1..=10_000.0).contains(rho));
    parsed.ok_or(format!("--rho {text}: a number from 0.1 to 10000 is needed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_and_what_is_made_of_them() {
        assert_eq!(Options::parse(&[]), Ok(Options::default()));
        let words = ["--rho", "357", "--nodes", "2", "--json", "--codec", "int4"];
        let asked = Options {
            rho: 357.0,
            nodes: 2,
            json: true,
            codec: "int4".into(),
            ..Options::default()
        };
        assert_eq!(Options::parse(&words), Ok(asked));
        for (words, part) in [
            (&["--rho"][..], "--rho needs a value"),
            (&["--rho", "0"][..], "from 0.1 to 10000"),
            (&["--rho", "nan"][..], "from 0.1 to 10000"),
            (&["--nodes", "1"][..], "from 2 to 16"),
            (&["--rounds", "x"][..], "--rounds x: a whole number"),
            (&["--fast"][..], "--fast is unknown"),
        ] {
            let error = Options::parse(words).unwrap_err();
            assert!(error.contains(part), "{words:?}: {error}");
        }
    }
}
