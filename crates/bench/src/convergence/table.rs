//! The table: every arm's best setting, its loss over the seeds, its bytes, and its time over slow links.

use super::{
    Book,
    campaign::{Arm, Best, Campaign, mean},
    clock::{bytes_per_token, time_to, utilisation},
    spec::Method,
};
use serde::Serialize;
use std::fmt::Write as _;

/// Ratios of links, see [`super::clock`].
const RHOS: [f64; 4] = [1.0, 10.0, 100.0, 357.0];
/// The arm that others are measured against.
const REFERENCE: &str = "all-reduce";
/// The arm whose final loss the clock waits for.
const TARGET: &str = "cocktail-sgd";

/// One arm in one column, measured.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The arm.
    pub name: String,
    /// Its column.
    pub column: String,
    /// Mean held-out loss over the seeds, nats per token; nothing where a run diverged.
    pub loss: Option<f64>,
    /// Half the range over the seeds.
    pub spread: f64,
    /// Seeds.
    pub seeds: usize,
    /// Above tuned all-reduce, in percent.
    pub gap_percent: Option<f64>,
    /// Mean training loss of the last tenth of the steps.
    pub train_loss: Option<f64>,
    /// What a peer sends and receives for each token that it trains on.
    pub bytes_per_token: f64,
    /// Bytes of a contribution per parameter, mean over the run.
    pub bytes_per_parameter: f64,
    /// Codecs used, and in how many rounds.
    pub codecs: Vec<(String, u32)>,
    /// Best setting of the grid.
    pub setting: String,
    /// Times until CocktailSGD's final loss, in inner steps, at ρ = 1, 10, 100, 357; nothing where it never is.
    pub time: [Option<f64>; 4],
    /// Share of the time in which a peer trains at ρ = 357.
    pub utilisation: f64,
}

/// Those arms of `campaign` that are done, in order.
pub fn rows(campaign: &Campaign, book: &Book) -> Vec<Row> {
    let done: Vec<(&Arm, Best)> = campaign
        .arms
        .iter()
        .filter_map(|arm| Some((arm, arm.best(book)?)))
        .collect();
    let of = |column: &str, name: &str| {
        let found = done.iter().find(|(arm, _)| arm.column == column && arm.name() == name);
        found.map(|(_, best)| best)
    };
    done.iter()
        .map(|(arm, best)| {
            let reference = of(&arm.column, REFERENCE)
                .map(Best::loss)
                .filter(|loss| loss.is_finite());
            row(arm, best, reference, of(&arm.column, TARGET))
        })
        .collect()
}

fn row(arm: &Arm, best: &Best, reference: Option<f64>, target: Option<&Best>) -> Row {
    let (spec, loss) = (&best.spec, best.loss());
    let finite = |loss: f64| loss.is_finite().then_some(loss);
    let losses = || best.results.iter().map(|result| result.loss);
    let range = losses().fold(f64::NEG_INFINITY, f64::max) - losses().fold(f64::INFINITY, f64::min);
    let over = |of: &dyn Fn(&super::RunResult) -> f64| mean(best.results.iter().map(of));
    let time = |rho: f64| -> Option<f64> {
        // against the same seed of the other arm: each has a loss of its own
        let pairs = best.results.iter().zip(&target?.results);
        let times: Option<Vec<f64>> = pairs
            .map(|(result, target)| time_to(spec, result, rho, target.loss))
            .collect();
        times.map(|times| mean(times.into_iter()))
    };
    Row {
        name: arm.name().to_string(),
        column: arm.column.clone(),
        loss: finite(loss),
        spread: if loss.is_finite() { range / 2.0 } else { 0.0 },
        seeds: best.results.len(),
        gap_percent: reference.and_then(|reference| finite((loss / reference - 1.0) * 100.0)),
        train_loss: finite(over(&|result| result.train_loss)),
        bytes_per_token: over(&|result| bytes_per_token(spec, result)),
        bytes_per_parameter: over(&|result| {
            result.encoded as f64 / result.syncs.max(1) as f64 / result.parameters.max(1) as f64
        }),
        codecs: best
            .results
            .first()
            .map(|result| result.codecs.clone())
            .unwrap_or_default(),
        setting: setting(spec),
        time: RHOS.map(time),
        utilisation: over(&|result| utilisation(spec, result, RHOS[3])),
    }
}

fn setting(spec: &super::Spec) -> String {
    let mut text = format!("lr {}", spec.lr);
    if spec.inner != "adamw" {
        let _ = write!(text, " {}", spec.inner);
    }
    if spec.method == Method::OuterLoop {
        let _ = write!(text, ", H {}, outer {}", spec.inner_steps, spec.outer_lr);
        if spec.outer_momentum > 0.0 {
            let _ = write!(text, "/{}", spec.outer_momentum);
        }
        if spec.outer_warmup > 0 {
            let _ = write!(text, " warmed up over {}", spec.outer_warmup);
        }
        if !matches!(spec.codec.as_str(), "dense" | "fp16") {
            let _ = write!(text, ", {} β {}", spec.codec, spec.feedback);
        }
        if spec.overlap != "none" {
            let _ = write!(text, ", {}", spec.overlap);
        }
    }
    text
}

/// The rows as Markdown, a table for each column.
pub fn markdown(rows: &[Row]) -> String {
    let mut out = String::new();
    let mut columns: Vec<&str> = rows.iter().map(|row| row.column.as_str()).collect();
    columns.dedup();
    for column in columns {
        let _ = writeln!(out, "### {column}\n");
        out.push_str(
            "| arm | loss | gap | train | bytes a token | bytes a parameter | time to CocktailSGD's loss at ρ = 1 / 10 / 100 / 357 | training at ρ = 357 | best setting |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        );
        for row in rows.iter().filter(|row| row.column == column) {
            line(row, &mut out);
        }
        out.push('\n');
    }
    out
}

fn line(row: &Row, out: &mut String) {
    let or_none =
        |value: Option<f64>, digits: usize| value.map_or("–".to_string(), |value| format!("{value:.digits$}"));
    let loss = row
        .loss
        .map_or("diverged".to_string(), |loss| format!("{loss:.4} ± {:.4}", row.spread));
    let gap = row.gap_percent.map_or("–".to_string(), |gap| format!("{gap:+.2} %"));
    let times: Vec<String> = row.time.iter().map(|time| or_none(*time, 0)).collect();
    let _ = writeln!(
        out,
        "| {} | {loss} | {gap} | {} | {} | {:.4} | {} | {:.1} % | {} |",
        row.name,
        or_none(row.train_loss, 3),
        rounded(row.bytes_per_token),
        row.bytes_per_parameter,
        times.join(" / "),
        row.utilisation * 100.0,
        row.setting,
    );
}

/// Three digits that say something.
fn rounded(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convergence::{RunResult, Spec, spec::tests::sample};
    use atoll_protocol::Hash;

    #[test]
    fn gaps_are_of_the_best_setting_over_all_seeds() {
        let path = std::env::temp_dir().join(format!("atoll-table-{}", std::process::id()));
        let book = Book::open(&path, Hash::ZERO, 2).unwrap();
        let arm = |name: &str, losses: [f64; 4]| {
            let spec = |lr, seed| Spec {
                arm: name.into(),
                lr,
                seed,
                ..sample()
            };
            let grid = vec![spec(0.1, 1), spec(0.2, 1)];
            for (at, loss) in [spec(0.1, 1), spec(0.2, 1), spec(0.2, 2), spec(0.2, 3)]
                .iter()
                .zip(losses)
            {
                let result = RunResult {
                    loss,
                    ..RunResult::default()
                };
                book.put(at, result).unwrap();
            }
            Arm {
                column: "N = 2".into(),
                grid,
                seeds: vec![2, 3],
            }
        };
        let arms = vec![
            arm("all-reduce", [3.0, 2.0, 2.1, 1.9]),
            arm("ours", [3.0, 2.0, 2.3, 2.0]),
            arm("lost", [f64::INFINITY, f64::INFINITY, 2.0, 2.0]),
        ];
        let rows = rows(&Campaign { arms }, &book);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(rows.len(), 2, "an arm whose chosen setting lacks seeds is not done");
        assert_eq!(rows[0].loss, Some(2.0));
        assert!((rows[1].gap_percent.unwrap() - 5.0).abs() < 1e-9);
        assert!((rows[1].spread - 0.15).abs() < 1e-9);
        let text = markdown(&rows);
        assert!(text.contains("| ours | 2.1000 ± 0.1500 | +5.00 % |"), "{text}");
    }
}
