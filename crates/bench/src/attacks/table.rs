//! The tables: loss relative to the honest run, and what became of the liars.

use super::{
    Book, RunResult, Spec,
    campaign::{Campaign, DEFAULT, RULES},
};
use serde::Serialize;
use std::fmt::Write as _;

/// One run with liars, beside the one without.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What was run.
    #[serde(flatten)]
    pub spec: Spec,
    /// Held-out loss, nats per byte; nothing where it diverged.
    pub loss: Option<f64>,
    /// Above the honest run under the same rule, in percent.
    pub extra_percent: Option<f64>,
    /// Liars caught.
    pub caught: u32,
    /// Rounds until the last of them was.
    pub detection: Option<u32>,
    /// How.
    pub reason: String,
    /// Share of honest contributions that were kept out.
    pub honest_out: f64,
    /// Honest replicas that were barred.
    pub barred_honest: u32,
    /// What must hold and did not.
    pub broken: String,
}

/// Every run of `campaign` that is done and whose honest run is, in order.
pub fn rows(campaign: &Campaign, book: &Book) -> Vec<Row> {
    let row = |spec: &Spec| {
        let result = book.get(spec)?;
        let honest = Spec {
            liar: String::new(),
            liars: 0,
            ..spec.clone()
        };
        Some(row(spec, &result, &book.get(&honest)?))
    };
    campaign.specs.iter().filter_map(row).collect()
}

fn row(spec: &Spec, result: &RunResult, honest: &RunResult) -> Row {
    let loss = Some(result.loss).filter(|loss| loss.is_finite());
    Row {
        spec: spec.clone(),
        loss,
        extra_percent: loss.map(|loss| 100.0 * (loss / honest.loss - 1.0)),
        caught: result.caught,
        detection: result.detection,
        reason: result.reason.clone(),
        honest_out: result.honest_out,
        barred_honest: result.barred_honest,
        broken: result.broken.clone(),
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
    row.extra_percent
        .map_or("diverged".into(), |percent| format!("{percent:+.2}"))
}

fn head((size, replicas, liars): (&str, u32, u32), what: &str) -> String {
    format!("## {what}: {size}, {liars} of {replicas} lie\n\n")
}

fn detail(rows: &[Row], network: (&str, u32, u32), text: &mut String) {
    text.push_str(&head(network, &format!("`{DEFAULT}` with audits")));
    text.push_str("| liar | loss | extra % | caught | rounds | how | honest kept out % | honest barred |\n");
    text.push_str("| --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for row in rows.iter().filter(|row| row.spec.audits && is(row, network)) {
        let name = if row.spec.liars == 0 { "none" } else { &row.spec.liar };
        let loss = row.loss.map_or("diverged".into(), |loss| format!("{loss:.4}"));
        let rounds = row.detection.map_or(String::new(), |rounds| rounds.to_string());
        let (caught, of) = (row.caught, row.spec.liars);
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
            "| {name} | {loss} | {extra} | {caught} of {of} | {rounds} | {reason} | {out:.1} | {barred} |"
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
