//! Formulas, and the results as a table and as JSON. The predictions are those of the virtual clock,
//! `crates/bench/src/convergence/clock.rs`; tools here depend on no crate of the workspace, so they stand again.

use super::{
    arms::{Rounds, Trained},
    options::Options,
};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// What the links are shaped for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    /// N.
    pub(super) nodes: usize,
    /// P.
    pub(super) parameters: u64,
    /// ρ.
    pub(super) rho: f64,
    /// Compute time of a step while all nodes compute.
    pub(super) t_step_s: f64,
}

/// Everything that was found out.
pub(super) struct Measured {
    pub(super) link: Link,
    pub(super) all_reduce: Trained,
    pub(super) atoll: Rounds,
}

impl Link {
    /// Bytes that a node sends in a ring all-reduce of P values in f32.
    fn ring_bytes(&self) -> f64 {
        let n = self.nodes as f64;
        2.0 * (n - 1.0) / n * 4.0 * self.parameters as f64
    }

    /// BW = 8 · 2(N−1)/N · 4P / (ρ · T_step).
    pub(super) fn bandwidth_bit_s(&self) -> f64 {
        8.0 * self.ring_bytes() / (self.rho * self.t_step_s)
    }

    /// Steps that fit into the time in which a contribution of `blob` bytes reaches N−1 others.
    pub(super) fn transfer_steps(&self, blob: f64) -> f64 {
        (self.nodes as f64 - 1.0) * blob * self.rho / self.ring_bytes()
    }

    /// ρ of the same bandwidth if a step takes `step_s`.
    fn rho_at(&self, step_s: f64) -> f64 {
        self.rho * self.t_step_s / step_s
    }

    fn all_reduce(&self) -> f64 {
        1.0 / (1.0 + self.rho)
    }

    /// H steps, then what is left of the transfer after the steps that hide it.
    fn outer_loop(&self, inner_steps: u32, hidden: u32, blob: f64) -> f64 {
        let steps = f64::from(inner_steps);
        steps / (steps + (self.transfer_steps(blob) - f64::from(hidden)).max(0.0))
    }
}

/// Both arms in the same terms.
struct Compared {
    utilisation: [f64; 2],
    predicted: [f64; 2],
    speed_up: f64,
    predicted_speed_up: f64,
}

impl Compared {
    fn of(options: &Options, measured: &Measured) -> Self {
        let Measured {
            link,
            all_reduce,
            atoll,
        } = measured;
        let hidden = if options.overlap == "none" {
            0
        } else {
            options.inner_steps
        };
        let predicted = [
            link.all_reduce(),
            link.outer_loop(options.inner_steps, hidden, atoll.blob_bytes),
        ];
        let steps = f64::from(atoll.closed * options.inner_steps);
        let wall_a_step = [
            all_reduce.wall_s() / f64::from(all_reduce.steps),
            atoll.wall_s / steps.max(1.0),
        ];
        Self {
            utilisation: [
                all_reduce.compute_s() / all_reduce.wall_s(),
                atoll.compute_s / atoll.wall_s,
            ],
            predicted,
            speed_up: wall_a_step[0] / wall_a_step[1],
            predicted_speed_up: predicted[1] / predicted[0],
        }
    }
}

/// The result for programs, one line.
pub(super) fn json(options: &Options, measured: &Measured) -> Value {
    let Measured {
        link,
        all_reduce,
        atoll,
    } = measured;
    let compared = Compared::of(options, measured);
    json!({
        "nodes": link.nodes,
        "parameters": link.parameters,
        "rho": link.rho,
        "rho_by_atoll_step": link.rho_at(atoll.step_s),
        "bandwidth_bit_s": link.bandwidth_bit_s().round(),
        "t_step_s": link.t_step_s,
        "inner_steps": options.inner_steps,
        "all_reduce": {
            "steps": all_reduce.steps,
            "wall_s": all_reduce.wall_s(),
            "compute_s": all_reduce.compute_s(),
            "utilisation": compared.utilisation[0],
            "predicted": compared.predicted[0],
        },
        "atoll": {
            "rounds": atoll.rounds,
            "closed": atoll.closed,
            "merged": atoll.merged,
            "codec": atoll.codec,
            "wall_s": atoll.wall_s,
            "compute_s": atoll.compute_s,
            "utilisation": compared.utilisation[1],
            "utilisation_before_last": atoll.before_last,
            "predicted": compared.predicted[1],
            "bytes_per_round": (link.nodes as f64 - 1.0) * atoll.blob_bytes,
            "wire_bytes_per_round": atoll.wire_bytes,
        },
        "speed_up": compared.speed_up,
        "predicted_speed_up": compared.predicted_speed_up,
    })
}

/// The result for people.
pub(super) fn table(options: &Options, measured: &Measured) -> String {
    let Measured { link, atoll, .. } = measured;
    let compared = Compared::of(options, measured);
    let mut text = format!(
        "{} nodes, {} parameters, ρ {}, T_step {:.3} s, {:.3} Mbit/s each way\n",
        link.nodes,
        link.parameters,
        link.rho,
        link.t_step_s,
        link.bandwidth_bit_s() / 1e6
    );
    for [name, left, right] in rows(options, measured, &compared) {
        let _ = writeln!(text, "{name:<20} {left:>12}  {right:>24}"); // a String takes everything
    }
    let _ = writeln!(
        text,
        "Atoll: {}, {:.0} B of contributions a node and round ({:.1} steps of transfer), {:.0} B on the wire, {:.2} of {} merged",
        atoll.codec,
        (link.nodes as f64 - 1.0) * atoll.blob_bytes,
        link.transfer_steps(atoll.blob_bytes),
        atoll.wire_bytes,
        atoll.merged,
        link.nodes
    );
    let _ = writeln!(
        text,
        "speed-up {:.1}, predicted {:.1}; by the steps that Atoll took, not the calibration's, ρ was {:.1}",
        compared.speed_up,
        compared.predicted_speed_up,
        link.rho_at(atoll.step_s)
    );
    text
}

fn rows(options: &Options, measured: &Measured, compared: &Compared) -> Vec<[String; 3]> {
    let Measured { all_reduce, atoll, .. } = measured;
    let percent = |share: f64| format!("{:.2} %", 100.0 * share);
    let [ring_steps, steps] =
        [all_reduce.steps, atoll.closed * options.inner_steps].map(|steps| f64::from(steps).max(1.0));
    let rounds = format!(
        "{} rounds × {}, {} closed",
        atoll.rounds, options.inner_steps, atoll.closed
    );
    let row = |name: &str, left: String, right: String| [name.to_string(), left, right];
    vec![
        row("", "all-reduce".into(), "Atoll".into()),
        row("trained", format!("{} steps", all_reduce.steps), rounds),
        row(
            "wall, s",
            format!("{:.1}", all_reduce.wall_s()),
            format!("{:.1}", atoll.wall_s),
        ),
        row(
            "compute, s",
            format!("{:.2}", all_reduce.compute_s()),
            format!("{:.1}", atoll.compute_s),
        ),
        row(
            "compute a step, s",
            format!("{:.3}", all_reduce.compute_s() / ring_steps),
            format!("{:.3}", atoll.step_s),
        ),
        row(
            "wall a step, s",
            format!("{:.2}", all_reduce.wall_s() / ring_steps),
            format!("{:.3}", atoll.wall_s / steps),
        ),
        row(
            "utilisation",
            percent(compared.utilisation[0]),
            percent(compared.utilisation[1]),
        ),
        row("  to last training", String::new(), percent(atoll.before_last)),
        row(
            "predicted",
            percent(compared.predicted[0]),
            percent(compared.predicted[1]),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link_test::arms::Step;

    const LINK: Link = Link {
        nodes: 4,
        parameters: 1_000_000,
        rho: 100.0,
        t_step_s: 0.5,
    };

    #[test]
    fn a_link_makes_all_reduce_take_rho_steps() {
        assert_eq!(LINK.ring_bytes(), 6e6);
        assert_eq!(LINK.bandwidth_bit_s(), 48e6 / 50.0);
        assert_eq!(LINK.all_reduce(), 1.0 / 101.0);
        assert_eq!(LINK.rho_at(0.25), 200.0);
    }

    #[test]
    fn a_transfer_is_hidden_by_steps() {
        // 20,000 B to each of three others: a hundredth of an all-reduce, one step
        assert_eq!(LINK.transfer_steps(20_000.0), 1.0);
        assert_eq!(LINK.outer_loop(30, 0, 20_000.0), 30.0 / 31.0);
        assert_eq!(LINK.outer_loop(30, 30, 20_000.0), 1.0);
        assert_eq!(LINK.outer_loop(30, 30, 1_200_000.0), 0.5);
    }

    #[test]
    fn results_for_programs() {
        let step = |wall_s| Step { compute_s: 0.5, wall_s };
        let measured = Measured {
            link: LINK,
            all_reduce: Trained {
                steps: 2,
                nodes: vec![vec![step(50.0), step(51.0)]; 4],
            },
            atoll: Rounds {
                rounds: 2,
                closed: 2,
                merged: 4.0,
                codec: "sparse-64".into(),
                wall_s: 30.0,
                compute_s: 27.0,
                before_last: 0.95,
                step_s: 0.45,
                blob_bytes: 20_000.0,
                wire_bytes: 70_000.0,
            },
        };
        let options = Options::default();
        let got = json(&options, &measured);
        assert_eq!(got["all_reduce"]["utilisation"], 1.0 / 101.0);
        assert_eq!(got["atoll"]["utilisation"], 0.9);
        assert_eq!(got["atoll"]["bytes_per_round"], 60_000.0);
        assert_eq!(got["speed_up"], 101.0);
        assert_eq!(got["predicted_speed_up"], 101.0);
        assert!(table(&options, &measured).contains("speed-up 101.0, predicted 101.0"));
    }
}
