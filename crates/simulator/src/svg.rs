//! The waterfall of rounds as a picture (SVG 1.1): time to the right, a lane for each node.

use crate::{clock::Micros, report::Report, trace::Row};
use std::fmt::Write as _;

/// Lanes; of larger networks only every second, third, … node is drawn.
const LANES_MAX: usize = 64;
const LANE: f64 = 14.0;
const LEFT: f64 = 70.0;
const TOP: f64 = 62.0;
const WIDTH: f64 = 1_200.0;
/// Fill, and what it stands for. The colours differ in lightness too (after Okabe and Ito).
const COLOURS: [(&str, &str); 6] = [
    ("#0072b2", "trains"),
    ("#e69f00", "sends and fetches"),
    ("#009e73", "merges"),
    ("#eeeeee", "waits"),
    ("#999999", "is off"),
    ("#e8b4d0", "is cut off"),
];

impl Report {
    /// The picture.
    pub fn svg(&self) -> String {
        let step = self.rows.len().div_ceil(LANES_MAX).max(1);
        let nodes: Vec<usize> = (0..self.rows.len()).step_by(step).collect();
        let height = TOP + LANE * nodes.len() as f64 + 40.0;
        let total = self.virtual_time.0.max(1) as f64;
        let x = |at: Micros| LEFT + WIDTH * (at.0 as f64 / total).min(1.0);
        let mut out = String::new();
        let _ = writeln!(
            out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{height}\" viewBox=\"0 0 {0} {height}\" \
             font-family=\"sans-serif\" font-size=\"10\">\n<rect width=\"{0}\" height=\"{height}\" fill=\"white\"/>",
            LEFT + WIDTH + 20.0
        );
        self.heading(step, &mut out);
        for (lane, node) in nodes.iter().enumerate() {
            let y = TOP + LANE * lane as f64;
            self.lane(*node, y, &x, &mut out);
        }
        self.rounds(height, &x, &mut out);
        self.axis(height, total, &mut out);
        out.push_str("</svg>\n");
        out
    }

    fn heading(&self, step: usize, out: &mut String) {
        let shown = if step > 1 {
            format!(", one lane for every {step} nodes")
        } else {
            String::new()
        };
        let _ = writeln!(
            out,
            "<text x=\"{LEFT}\" y=\"18\" font-size=\"14\">{}, seed {}: {} nodes, {} rounds{shown}</text>",
            escaped(&self.scenario.name),
            self.seed,
            self.rows.len(),
            self.records.len()
        );
        for (place, (colour, name)) in COLOURS.iter().enumerate() {
            let at = LEFT + 130.0 * place as f64;
            let _ = writeln!(
                out,
                "<rect x=\"{at}\" y=\"26\" width=\"12\" height=\"10\" fill=\"{colour}\" stroke=\"#666\" stroke-width=\"0.3\"/>\
                 <text x=\"{}\" y=\"35\">{name}</text>",
                at + 16.0
            );
        }
    }

    fn lane(&self, node: usize, y: f64, x: &impl Fn(Micros) -> f64, out: &mut String) {
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">node-{node}</text>",
            LEFT - 6.0,
            y + 10.0
        );
        let mut bar = |(from, to): (Micros, Micros), colour: usize| {
            let (left, right) = (x(from), x(to));
            let width = (right - left).max(0.4);
            let (fill, height) = (COLOURS[colour].0, LANE - 3.0);
            let _ = writeln!(
                out,
                "<rect x=\"{left:.2}\" y=\"{y}\" width=\"{width:.2}\" height=\"{height}\" fill=\"{fill}\"/>"
            );
        };
        bar((Micros(0), self.virtual_time), 3);
        for (_, from, to) in self.apart.iter().filter(|(of, ..)| *of as usize == node) {
            bar((*from, to.unwrap_or(self.virtual_time)), 5);
        }
        for row in &self.rows[node] {
            let Row { train, send, merge, .. } = *row;
            for (span, colour) in [(send, 1), (train, 0), (merge, 2)] {
                if let Some(span) = span {
                    bar(span, colour);
                }
            }
        }
        for (_, from, to) in self.off.iter().filter(|(of, ..)| *of as usize == node) {
            bar((*from, to.unwrap_or(self.virtual_time)), 4);
        }
    }

    /// A line where each round ended, and its number.
    fn rounds(&self, height: f64, x: &impl Fn(Micros) -> f64, out: &mut String) {
        let mut labelled = f64::MIN;
        for record in &self.records {
            let round = record.round.0 as usize;
            let Some((from, to)) = self.span_of(round) else {
                continue;
            };
            let (left, at) = (x(from), x(to));
            let _ = writeln!(
                out,
                "<line x1=\"{at:.2}\" y1=\"{}\" x2=\"{at:.2}\" y2=\"{}\" stroke=\"#333\" stroke-width=\"0.5\"/>",
                TOP - 4.0,
                height - 34.0
            );
            if left > labelled + 24.0 {
                labelled = left;
                let _ = writeln!(out, "<text x=\"{left:.2}\" y=\"{}\">r{round}</text>", TOP - 6.0);
            }
        }
    }

    fn axis(&self, height: f64, total: f64, out: &mut String) {
        for tick in 0..=10 {
            let at = LEFT + WIDTH * f64::from(tick) / 10.0;
            let seconds = total / 1e6 * f64::from(tick) / 10.0;
            let y = height - 16.0;
            let _ = writeln!(
                out,
                "<text x=\"{at:.1}\" y=\"{y}\" text-anchor=\"middle\">{seconds:.0} s</text>"
            );
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use crate::{Scenario, run};

    #[test]
    fn a_lane_for_each_node_and_every_tag_is_closed() {
        let text = "name = \"a<b\"\nabout = \"\"\nnodes = 3\nrounds = 2\n";
        let svg = run(&Scenario::from_toml(text).unwrap(), 1).svg();
        assert_eq!(svg.matches(">node-").count(), 3);
        assert!(svg.contains("a&lt;b") && svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        let opened = svg.matches("<text").count();
        assert_eq!(opened, svg.matches("</text>").count());
        assert_eq!(
            svg.matches("#0072b2").count(),
            1 + 6,
            "legend, and training of three nodes in two rounds"
        );
    }
}
