//! Scenarios as TOML.

use super::{Scenario, ScenarioError};

/// Bytes of a scenario file, at most.
const BYTES_MAX: usize = 1 << 20;

/// The scenarios that come with the project, as they are in `crates/simulator/scenarios`.
const BUILT_IN: &[(&str, &str)] = &[
    ("calm", include_str!("../../scenarios/calm.toml")),
    ("slow-links", include_str!("../../scenarios/slow-links.toml")),
    ("one-slow-peer", include_str!("../../scenarios/one-slow-peer.toml")),
    ("churn-20", include_str!("../../scenarios/churn-20.toml")),
    ("half-partition", include_str!("../../scenarios/half-partition.toml")),
    ("crash-storm", include_str!("../../scenarios/crash-storm.toml")),
    ("late-joiners", include_str!("../../scenarios/late-joiners.toml")),
    ("two-die", include_str!("../../scenarios/two-die.toml")),
    ("liars", include_str!("../../scenarios/liars.toml")),
    ("stormy-8", include_str!("../../scenarios/stormy-8.toml")),
    ("other-machines", include_str!("../../scenarios/other-machines.toml")),
    ("harm-8", include_str!("../../scenarios/harm-8.toml")),
    ("gang-8", include_str!("../../scenarios/gang-8.toml")),
    ("gang-64", include_str!("../../scenarios/gang-64.toml")),
    ("turncoats", include_str!("../../scenarios/turncoats.toml")),
    ("honest-1000", include_str!("../../scenarios/honest-1000.toml")),
    ("gang-1000", include_str!("../../scenarios/gang-1000.toml")),
    ("thousand-1000", include_str!("../../scenarios/thousand-1000.toml")),
];

impl Scenario {
    /// Names of the scenarios that come with the project.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// The text of one of them.
    pub fn built_in(name: &str) -> Option<&'static str> {
        BUILT_IN.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
    }

    /// Reads and checks a scenario.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line or its field and value.
    pub fn from_toml(text: &str) -> Result<Self, ScenarioError> {
        if text.len() > BYTES_MAX {
            return Err(ScenarioError::Toml(format!(
                "{} bytes; a scenario has at most {BYTES_MAX}",
                text.len()
            )));
        }
        let scenario: Self = toml::from_str(text).map_err(|error| ScenarioError::Toml(one_line(&error, text)))?;
        scenario.check()?;
        Ok(scenario)
    }

    /// The text that [`Scenario::from_toml`] reads.
    ///
    /// # Errors
    /// Where a value cannot be written, which no checked scenario has.
    pub fn to_toml(&self) -> Result<String, ScenarioError> {
        toml::to_string(self).map_err(|error| ScenarioError::Toml(error.to_string()))
    }
}

/// What is wrong, and on which line.
fn one_line(error: &toml::de::Error, text: &str) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let message = error.message().replace('\n', " ");
    format!("line {}: {message}", before.matches('\n').count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "name = \"small\"\nabout = \"a test\"\nnodes = 4\nrounds = 3\n";

    #[test]
    fn reads_back_what_it_writes() {
        let text = format!(
            "{SMALL}[churn]\nshare = 0.25\nstay_s = [5, 20]\nuntil_s = 100\nannounced = 0.5\n\
             [[event]]\nat_s = 1.5\ndo = \"crash\"\nwho = [1, 2]\nfor_s = 10\n"
        );
        let scenario = Scenario::from_toml(&text).unwrap();
        assert_eq!(Scenario::from_toml(&scenario.to_toml().unwrap()).unwrap(), scenario);
        let settled = scenario.settled(3);
        assert_eq!(Scenario::from_toml(&settled.to_toml().unwrap()).unwrap(), settled);
    }

    #[test]
    fn what_comes_with_the_project_is_all_of_the_folder_and_valid() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().replace(".toml", ""))
            .collect();
        let mut names: Vec<&str> = Scenario::names().collect();
        files.sort();
        names.sort_unstable();
        assert_eq!(files, names);
        for name in names {
            let scenario = Scenario::from_toml(Scenario::built_in(name).unwrap()).unwrap();
            assert_eq!(scenario.name, name);
        }
    }

    proptest::proptest! {
        #[test]
        fn text_from_strangers_never_panics(garbage: String, at in 0usize..4_000, with: char, cut in 0usize..4_000) {
            let _ = Scenario::from_toml(&garbage);
            let mut text: Vec<char> = Scenario::built_in("crash-storm").unwrap().chars().collect();
            let at = at % text.len();
            text[at] = with;
            if let Ok(scenario) = Scenario::from_toml(&text.iter().collect::<String>()) {
                scenario.settled(1);
            }
            text.truncate(cut % text.len());
            let _ = Scenario::from_toml(&text.iter().collect::<String>());
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (lines, part) in [
            ("[link]\nlos = 1\n", "line 6: unknown field `los`"),
            ("[link]\nloss = 1.0\n", "link.loss = 1: from 0 to 0.5 is allowed"),
            ("[link]\nlatency_ms = [9, 3]\n", "link.latency_ms = [9, 3]"),
            ("[rules]\ncodec = \"zip\"\n", "rules.codec = zip"),
            ("[learner]\nwidth = 1024\n", "nodes · 13 · learner.width² = 54525952"),
            (
                "[churn]\nshare = 0.9\nstay_s = [1, 1]\nuntil_s = 1000000\nannounced = 0.0\n",
                "churn.stay_s = 4000000",
            ),
            (
                "[[event]]\ndo = \"crash\"\nwho = [4]\n",
                "event 1: who = 4: from 0 to 3",
            ),
            ("[[event]]\ndo = \"crash\"\n", "event 1: who = []"),
            ("[[event]]\ndo = \"explode\"\n", "unknown variant `explode`"),
            ("[[event]]\ndo = \"cut\"\nwho = [0]\n", "event 1: step"),
            (
                "[[event]]\ndo = \"partition\"\nwho = [0]\nat_s = -1.0\n",
                "event 1: at_s = -1",
            ),
            (
                "[rules]\ndeadlines_ms = [1, 5000, 10000, 10000, 60000]\n",
                "deadlines.grace_ms = 1",
            ),
        ] {
            let error = Scenario::from_toml(&format!("{SMALL}{lines}")).unwrap_err().to_string();
            assert!(error.contains(part), "{lines}: {error}");
        }
        assert!(Scenario::from_toml(&" ".repeat(BYTES_MAX + 1)).is_err());
    }
}
