//! The tables: loss relative to the honest run, and what became of the liars.

use super::{
    Book, RunResult, Spec,
    campaign::{Campaign, DEFAULT, RULES},
};
use serde::Serialize;
use std::fmt::Write as _;

/// Runs with liars, beside those without: one for each seed.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What was run, with the first seed.
    #[serde(flatten)]
    pub spec: Spec,
    /// Seeds.
    pub seeds: u32,
    /// Mean held-out loss, nats per byte; nothing where a run diverged.
    pub loss: Option<f64>,
    /// Mean over the seeds of how much that is above the honest run under the same rule, in percent.
    pub extra_percent: Option<f64>,
    /// Half the range of that over the seeds.
    pub spread: f64,
    /// Liars caught, in all runs.
    pub caught: u32,
    /// Rounds until the last of them was, at the most.
    pub detection: Option<u32>,
    /// How.
    pub reason: String,
    /// Share of honest contributions that were kept out.
    pub honest_out: f64,
    /// Honest replicas that were barred, in all runs.
    pub barred_honest: u32,
    /// What must hold and did not.
    pub broken: String,
}

/// What is done of `campaign` with its honest runs, in order.
pub fn rows(campaign: &Campaign, book: &Book) -> Vec<Row> {
    let mut groups: Vec<(Spec, Vec<(RunResult, RunResult)>)> = Vec::new();
    for spec in &campaign.specs {
        let honest = Spec {
            liar: String::new(),
            liars: 0,
            ..spec.clone()
        };
        let (Some(result), Some(honest)) = (book.get(spec), book.get(&honest)) else {
            continue;
        };
        let like = |first: &Spec| {
            Spec {
                seed: first.seed,
                ..spec.clone()
            } == *first
        };
        match groups.iter_mut().find(|(first, _)| like(first)) {
            Some((_, runs)) => runs.push((result, honest)),
            None => groups.push((spec.clone(), vec![(result, honest)])),
        }
    }
    groups.iter().map(|(spec, runs)| row(spec, runs)).collect()
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len().max(1) as f64;
    values.sum::<f64>() / count
}

fn row(spec: &Spec, runs: &[(RunResult, RunResult)]) -> Row {
    let extra: Vec<f64> = runs
        .iter()
        .map(|(run, honest)| 100.0 * (run.loss / honest.loss - 1.0))
        .collect();
    let (least, most) = extra
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), extra| {
            (extra.min(least), extra.max(most))
        });
    let finite = |value: f64| Some(value).filter(|value| value.is_finite());
    let first = |text: fn(&RunResult) -> &String| {
        let mut texts = runs.iter().map(|(run, _)| text(run));
        texts.find(|text| !text.is_empty()).cloned().unwrap_or_default()
    };
    Row {
        spec: spec.clone(),
        seeds: runs.len() as u32,
        loss: finite(mean(runs.iter().map(|(run, _)| run.loss))),
        extra_percent: finite(mean(extra.iter().copied())),
        spread: (most - least) / 2.0,
        caught: runs.iter().map(|(run, _)| run.caught).sum(),
        detection: runs.iter().filter_map(|(run, _)| run.detection).max(),
        reason: first(|run| &run.reason),
        honest_out: mean(runs.iter().map(|(run, _)| run.honest_out)),
        barred_honest: runs.iter().map(|(run, _)| run.barred_honest).sum(),
        broken: first(|run| &run.broken),
    }
}

/// As Markdown: in detail for the default rule, then all rules beside each other.
pub fn markdown(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut networks: Vec<(&str, u32, u32)> = Vec::new();
    for row in rows.iter().filter(|row| row.spec.audits) {
        let network = (row.spec.size.as_str(), row.spec.replicas, row.spec.liars);
        if row.spec.liars > 0 && !networks.contains(&network) {
            networks.push(network);
        }
    }
    for network in &networks {
        detail(rows, *network, &mut text);
    }
    for network in networks.iter().filter(|(size, ..)| *size == "tiny") {
        beside(rows, *network, &mut text);
    }
    text
}

fn is(row: &Row, (size, replicas, liars): (&str, u32, u32)) -> bool {
    let spec = &row.spec;
    spec.size == size && spec.replicas == replicas && (spec.liars == liars || spec.liars == 0)
}

fn percent(row: &Row) -> String {
    match row.extra_percent {
        None => "diverged".into(),
        Some(percent) if row.seeds > 1 => format!("{percent:+.2} ± {:.2}", row.spread),
        Some(percent) => format!("{percent:+.2}"),
    }
}

fn head((size, replicas, liars): (&str, u32, u32), what: &str) -> String {
    format!("## {what}: {size}, {liars} of {replicas} lie\n\n")
}

fn detail(rows: &[Row], network: (&str, u32, u32), text: &mut String) {
    text.push_str(&head(network, &format!("`{DEFAULT}` with audits")));
    text.push_str(
        "| liar | loss | extra % | to all honest % | caught | rounds | how | honest kept out % | honest barred |\n",
    );
    text.push_str("| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
    let mut honest = rows.iter().filter(|row| row.spec.audits && row.spec.liars == 0);
    let honest = honest.find(|row| is(row, network)).and_then(|row| row.loss);
    for row in rows.iter().filter(|row| row.spec.audits && is(row, network)) {
        let name = if row.spec.liars == 0 { "none" } else { &row.spec.liar };
        let loss = row.loss.map_or("diverged".into(), |loss| format!("{loss:.4}"));
        let rounds = row.detection.map_or(String::new(), |rounds| rounds.to_string());
        let to_all = row.loss.zip(honest).map_or(String::new(), |(loss, honest)| {
            format!("{:+.2}", 100.0 * (loss / honest - 1.0))
        });
        let (caught, of) = (row.caught, row.spec.liars * row.seeds);
        let (extra, barred) = (percent(row), row.barred_honest);
        let reason = if row.broken.is_empty() {
            &row.reason
        } else {
            &row.broken
        };
        let out = 100.0 * row.honest_out;
        // writing into a string cannot fail
        let _ = writeln!(
            text,
            "| {name} | {loss} | {extra} | {to_all} | {caught} of {of} | {rounds} | {reason} | {out:.1} | {barred} |"
        );
    }
    text.push('\n');
}

fn beside(rows: &[Row], network: (&str, u32, u32), text: &mut String) {
    text.push_str(&head(network, "Extra loss in percent of each rule's own honest run"));
    let names = RULES.map(|(rule, audits)| {
        if audits {
            format!("{rule}, audits")
        } else {
            rule.to_string()
        }
    });
    let _ = writeln!(text, "| liar | {} |", names.join(" | "));
    let _ = writeln!(text, "| --- |{}", " --- |".repeat(RULES.len()));
    let mut names: Vec<&str> = Vec::new();
    for row in rows.iter().filter(|row| is(row, network)) {
        if !names.contains(&row.spec.liar.as_str()) {
            names.push(&row.spec.liar);
        }
    }
    for name in names {
        let cell = |(rule, audits): &(&str, bool)| {
            let of = |row: &&Row| row.spec.rule == *rule && row.spec.audits == *audits && row.spec.liar == name;
            let found = rows.iter().find(|row| is(row, network) && of(row));
            match (found, name.is_empty()) {
                (Some(row), true) => row.loss.map_or("diverged".into(), |loss| format!("{loss:.4} nats")),
                (Some(row), false) => percent(row),
                (None, _) => String::new(),
            }
        };
        let cells: Vec<String> = RULES.iter().map(cell).collect();
        let name = if name.is_empty() { "none" } else { name };
        let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attacks::Preset;
    use atoll_protocol::Hash;

    #[test]
    fn runs_are_held_against_the_honest_one_of_their_seed() {
        let path = std::env::temp_dir().join(format!("atoll-attacks-{}", std::process::id()));
        let book = Book::open(&path, Hash::ZERO, 1).unwrap();
        let first = Preset::Smoke.campaign().specs[0].clone();
        let result = |loss, caught| RunResult {
            loss,
            first: 5.0,
            caught,
            detection: (caught > 0).then_some(7),
            reason: String::new(),
            honest_out: 0.0,
            barred_honest: 0,
            void: 0,
            broken: String::new(),
            wall_s: 1.0,
        };
        let mut specs = Vec::new();
        for (seed, honest, lied) in [(1, 2.0, 2.02), (2, 4.0, 4.12)] {
            let spec = Spec { seed, ..first.clone() };
            let liar = Spec {
                liar: "lazy".into(),
                liars: 1,
                ..spec.clone()
            };
            book.put(&spec, result(honest, 0)).unwrap();
            book.put(&liar, result(lied, 1)).unwrap();
            specs.extend([spec, liar]);
        }
        let unfinished = Spec {
            liar: "zeros".into(),
            ..specs[1].clone()
        };
        specs.push(unfinished);
        let rows = rows(&Campaign { specs }, &book);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[1].seeds, rows[1].caught, rows[1].detection), (2, 2, Some(7)));
        let extra = rows[1].extra_percent.unwrap();
        assert!(
            (extra - 2.0).abs() < 1e-9 && (rows[1].spread - 1.0).abs() < 1e-9,
            "{rows:?}"
        );
        let text = markdown(&rows);
        assert!(
            text.contains("| lazy | 3.0700 | +2.00 ± 1.00 | +2.33 | 2 of 2 | 7 |"),
            "{text}"
        );
    }
}
