//! A run as text: per round, what each node was busy with.

use crate::{clock::Micros, report::Report, trace::Row};
use atoll_ledger::{Outcome, RoundRecord};
use std::fmt::Write as _;

/// Characters of a node's line.
const WIDTH: usize = 64;
/// In larger networks the slowest, the middle and the fastest node of each phase are told instead.
const NODES_MAX: usize = 16;

impl Report {
    /// The rounds' timeline, a line for each node and round, or for larger networks a line for each round.
    pub fn timeline(&self) -> String {
        let mut text = String::from("█ trains  ▒ sends and fetches  ▓ merges  · waits  ~ is cut off  × is off\n");
        for record in &self.records {
            self.round_lines(record, &mut text);
        }
        text
    }

    /// When a round began and ended: the first node that trained, the last that heard of its end.
    pub(crate) fn span_of(&self, round: usize) -> Option<(Micros, Micros)> {
        let rows = || self.rows.iter().filter_map(|rows| rows.get(round));
        let begins = rows().filter_map(|row| Some(row.train?.0)).min();
        let ends = rows().filter_map(|row| row.ended).max();
        let first = rows().filter_map(|row| row.ended).min();
        begins.or(first).zip(ends)
    }

    fn round_lines(&self, record: &RoundRecord, text: &mut String) {
        let round = record.round.0 as usize;
        let Some((from, to)) = self.span_of(round) else { return };
        let outcome = match record.outcome {
            Outcome::Closed(_) => "closed",
            Outcome::NobodyRevealed => "void: nobody revealed",
            Outcome::NothingAccepted => "void: nothing accepted",
            Outcome::RootsSplit => "void: no root found a quorum",
            Outcome::Outgrown => "void: its roster fell silent",
        };
        let _ = writeln!(
            text,
            "round {round:>3}  {:>9.2} – {:<9.2} s  {outcome}, {} of {} merged",
            from.seconds(),
            to.seconds(),
            record.merged.len(),
            record.roster.len()
        );
        if self.rows.len() > NODES_MAX {
            return self.quantiles(round, from, text);
        }
        for (node, rows) in self.rows.iter().enumerate() {
            let row = rows.get(round).copied().unwrap_or_default();
            let _ = writeln!(text, "  node-{node:<3} {}", self.bar(node as u32, row, from, to));
        }
    }

    fn bar(&self, node: u32, row: Row, from: Micros, to: Micros) -> String {
        let length = to.since(from).0.max(1);
        let mut cells = vec!['·'; WIDTH];
        let mut paint = |span: Option<(Micros, Micros)>, with: char| {
            let Some((begin, end)) = span else { return };
            if end < from || begin > to {
                return;
            }
            let place = |at: Micros| (at.since(from).0 as u128 * WIDTH as u128 / u128::from(length)) as usize;
            let (first, last) = (place(begin).min(WIDTH - 1), place(end.min(to)).min(WIDTH - 1));
            cells[first..=last].fill(with);
        };
        for (_, begin, end) in self.apart.iter().filter(|(of, ..)| *of == node) {
            paint(Some((*begin, end.unwrap_or(to))), '~');
        }
        paint(row.train, '█');
        paint(row.send, '▒');
        paint(row.merge, '▓');
        for (_, begin, end) in self.off.iter().filter(|(of, ..)| *of == node) {
            paint(Some((*begin, end.unwrap_or(to))), '×');
        }
        cells.into_iter().collect()
    }

    /// For large networks: when the first, the middle and the last node had trained, fetched and merged.
    fn quantiles(&self, round: usize, from: Micros, text: &mut String) {
        let rows: Vec<&Row> = self.rows.iter().filter_map(|rows| rows.get(round)).collect();
        type End = fn(&Row) -> Option<Micros>;
        let phases: [(&str, End); 3] = [
            ("trained", |row| row.train.map(|(_, end)| end)),
            ("fetched", |row| row.send.map(|(_, end)| end)),
            ("merged", |row| row.merge.map(|(_, end)| end)),
        ];
        for (name, end) in phases {
            let mut ends: Vec<Micros> = rows.iter().filter_map(|row| end(row)).collect();
            ends.sort_unstable();
            let (Some(first), Some(last)) = (ends.first(), ends.last()) else {
                continue;
            };
            let middle = ends[ends.len() / 2];
            let [first, middle, last] = [*first, middle, *last].map(|at| at.since(from).seconds());
            let count = ends.len();
            let _ = writeln!(
                text,
                "  {name:<8} {count:>5} nodes  first {first:>8.2} s  middle {middle:>8.2} s  last {last:>8.2} s"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Scenario, run};

    #[test]
    fn every_round_and_node_has_a_line() {
        let text = "name = \"t\"\nabout = \"\"\nnodes = 3\nrounds = 2\n[[event]]\ndo = \"crash\"\nat_s = 3\nwho = [2]\nfor_s = 4\n";
        let report = run(&Scenario::from_toml(text).unwrap(), 1);
        let timeline = report.timeline();
        assert_eq!(timeline.matches("  node-").count(), 6, "{timeline}");
        assert!(
            timeline.contains('×') && timeline.contains('█') && timeline.contains('▓'),
            "{timeline}"
        );
        assert!(timeline.contains("round   1"), "{timeline}");
    }

    #[test]
    fn large_networks_are_told_in_quantiles() {
        let text = "name = \"t\"\nabout = \"\"\nnodes = 17\nrounds = 1\n";
        let timeline = run(&Scenario::from_toml(text).unwrap(), 1).timeline();
        assert!(timeline.contains("trained     17 nodes"), "{timeline}");
    }
}
