//! How long a run would take over links of a given ratio ρ: the time that a ring all-reduce of f32 gradients
//! takes, over the time of an inner step, which is the unit here.
//!
//! A peer sends 2 (N−1)/N · 4P bytes in a ring all-reduce, and a contribution to each of N−1 peers
//! otherwise. A transfer that is overlapped by τ steps delays what comes after by what is left of it.

use super::{
    RunResult, Spec,
    spec::{Method, Point},
};

/// Bytes that a peer sends in a ring all-reduce of P values in f32.
fn ring(parameters: u64, replicas: u32) -> f64 {
    let n = f64::from(replicas);
    2.0 * (n - 1.0) / n * 4.0 * parameters as f64
}

/// Bytes that a peer sends for contributions of `encoded` bytes.
fn sent(spec: &Spec, result: &RunResult, encoded: u64) -> f64 {
    match spec.method {
        Method::AllReduce => {
            encoded as f64 / (4.0 * result.parameters.max(1) as f64) * ring(result.parameters, spec.replicas)
        }
        Method::Cocktail | Method::OuterLoop => encoded as f64 * f64::from(spec.replicas - 1),
    }
}

/// Bytes that a peer sends and receives for each token that it trains on.
pub fn bytes_per_token(spec: &Spec, result: &RunResult) -> f64 {
    2.0 * sent(spec, result, result.encoded) / result.tokens.max(1) as f64
}

/// The time of one transfer of `bytes` to each other peer, in inner steps.
pub(super) fn transfer(spec: &Spec, parameters: u64, bytes: u64) -> f64 {
    let sent = bytes as f64 * f64::from(spec.replicas - 1);
    sent * spec.rho / ring(parameters.max(1), spec.replicas).max(1.0)
}

/// When each point of the curve is reached, in inner steps.
fn times(spec: &Spec, result: &RunResult, rho: f64) -> Vec<(f64, f64)> {
    let per_byte = rho / ring(result.parameters.max(1), spec.replicas).max(1.0);
    let steps_a_sync = spec.steps() as f64 / result.syncs.max(1) as f64;
    let hidden = match spec.method {
        Method::Cocktail => 1.0, // its exchange runs beside the next step
        _ => f64::from(spec.ahead().unwrap_or(0)),
    };
    let hidden = hidden.min(steps_a_sync);
    let mut time = 0.0;
    let mut before = Point {
        step: 0,
        encoded: 0,
        loss: f64::INFINITY,
    };
    let mut times = Vec::new();
    for point in &result.curve {
        let steps = (point.step - before.step) as f64;
        let syncs = steps / steps_a_sync;
        if syncs > 0.0 {
            let transfer = sent(spec, result, point.encoded - before.encoded) * per_byte / syncs;
            time += steps + syncs * (transfer - hidden).max(0.0);
        }
        times.push((time, point.loss));
        before = *point;
    }
    times
}

/// Inner steps, as time, until the held-out loss is `target`; nothing if it never is.
pub fn time_to(spec: &Spec, result: &RunResult, rho: f64, target: f64) -> Option<f64> {
    let times = times(spec, result, rho);
    let mut before: Option<(f64, f64)> = None;
    for (time, loss) in times {
        if loss <= target {
            return Some(match before {
                Some((earlier, higher)) if higher > loss => {
                    earlier + (time - earlier) * (higher - target) / (higher - loss)
                }
                _ => time,
            });
        }
        before = Some((time, loss));
    }
    None
}

/// The share of time in which a peer trains.
pub fn utilisation(spec: &Spec, result: &RunResult, rho: f64) -> f64 {
    let end = times(spec, result, rho).last().map_or(0.0, |(time, _)| *time);
    spec.steps() as f64 / end.max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convergence::spec::tests::sample;

    /// 12 steps of 4 replicas; 1000 parameters; loss falls by 1 every 4 steps.
    fn result(encoded_a_sync: u64, syncs: u64) -> RunResult {
        let point = |step: u64| Point {
            step,
            encoded: encoded_a_sync * syncs * step / 12,
            loss: 5.0 - step as f64 / 4.0,
        };
        RunResult {
            parameters: 1000,
            syncs,
            encoded: encoded_a_sync * syncs,
            tokens: 100,
            curve: [0, 4, 8, 12].map(point).to_vec(),
            ..RunResult::default()
        }
    }

    #[test]
    fn links_stretch_time() {
        let all_reduce = Spec {
            method: Method::AllReduce,
            replicas: 4,
            ..sample()
        };
        let dense = result(4000, 12);
        assert_eq!(time_to(&all_reduce, &dense, 0.0, 4.0), Some(4.0));
        assert_eq!(time_to(&all_reduce, &dense, 9.0, 3.5), Some(60.0));
        assert_eq!(time_to(&all_reduce, &dense, 9.0, 1.9), None);
        let cocktail = Spec {
            method: Method::Cocktail,
            ..all_reduce.clone()
        };
        // three peers get 400 bytes each: a fifth of a ring's 6000, so 1.8 steps, of which one is hidden
        assert_eq!(time_to(&cocktail, &result(400, 12), 9.0, 4.0), Some(7.2));
        assert!((utilisation(&all_reduce, &dense, 9.0) - 0.1).abs() < 1e-9);
        // 6000 bytes to each of three peers, three times: three times the bytes of a ring all-reduce.
        let outer = Spec {
            replicas: 4,
            ..sample()
        };
        let large = result(6000, 3);
        assert_eq!(time_to(&outer, &large, 1.0, 3.0), Some(8.0 + 2.0 * 3.0));
        let hidden = Spec {
            overlap: "steps-2".into(),
            ..outer.clone()
        };
        assert_eq!(time_to(&hidden, &large, 1.0, 3.0), Some(8.0 + 2.0));
        assert_eq!(bytes_per_token(&outer, &large), 2.0 * 3.0 * 18_000.0 / 100.0);
    }
}
