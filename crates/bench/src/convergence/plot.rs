//! Loss against bytes as a picture (SVG 1.1): down and to the left is better.

mod labels;

use super::table::Row;
use labels::{FONT, Item, Label, Rect, Spot, rounded, width_of};
use std::fmt::Write as _;

const LEFT: f64 = 70.0;
const TOP: f64 = 66.0;
const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 500.0;
const FULL_WIDTH: f64 = LEFT + WIDTH + 30.0;
const BOTTOM: f64 = TOP + HEIGHT;
const TITLE: f64 = 15.0;
/// Lines under the picture.
const NOTE: f64 = 16.0;

/// Colours by class, for a light page and for a dark one.
const STYLE: &str = "<style>
.page{fill:#ffffff}.text{fill:#1f2328}.note{fill:#59636e}.axis{stroke:#444444}.grid{stroke:#e4e4e4}
.ours{fill:#0072b2;stroke:#0072b2}.theirs{fill:#b84a00;stroke:#b84a00}.front{stroke:#009e73}
.name{stroke:#ffffff;stroke-width:3px;stroke-linejoin:round;paint-order:stroke}.leader{stroke-opacity:0.55}
@media (prefers-color-scheme:dark){
.page{fill:#0d1117}.text{fill:#e6edf3}.note{fill:#9198a1}.axis{stroke:#9198a1}.grid{stroke:#262c36}
.ours{fill:#58b0ee;stroke:#58b0ee}.theirs{fill:#f0883e;stroke:#f0883e}.front{stroke:#3fb68b}
.name{stroke:#0d1117}
}
</style>";

/// A linear scale from values to the page.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn of(values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Self {
        let (low, high) = (
            values.clone().fold(f64::INFINITY, f64::min),
            values.fold(f64::NEG_INFINITY, f64::max),
        );
        let room = ((high - low) * 0.06).max(1e-3);
        Self {
            low: low - room,
            high: high + room,
            from,
            to,
        }
    }

    /// To a tenth of a pixel.
    fn place(&self, value: f64) -> f64 {
        let share = (value - self.low) / (self.high - self.low);
        rounded(self.from + share * (self.to - self.from), 10.0)
    }
}

/// The arms of one column as points, and those that are too far above to be drawn.
struct Chart<'a> {
    drawn: Vec<(&'a Row, f64)>,
    far: Vec<(&'a Row, f64)>,
    x: Axis,
    y: Axis,
}

/// The finished arms of one column. Arms more than twice as far above the best as the median are left out,
/// and named.
pub fn svg(rows: &[Row], column: &str) -> String {
    let chart = Chart::of(rows, column);
    let front = chart.front();
    let items = chart.items();
    let labels = labels::place(&items, frame(), &front);
    let notes = chart.notes(&labels);
    let height = BOTTOM + 58.0 + NOTE * notes.len() as f64;
    let mut out = String::new();
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{FULL_WIDTH}\" height=\"{height}\" viewBox=\"0 0 {FULL_WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"{FONT}\">\n{STYLE}\n<rect class=\"page\" width=\"{FULL_WIDTH}\" height=\"{height}\"/>\n<text class=\"text\" x=\"{LEFT}\" y=\"26\" font-size=\"{TITLE}\">{}</text>",
        escaped(&title(column))
    );
    key(&mut out);
    if !items.is_empty() {
        axes(&chart.x, &chart.y, &mut out);
        line(&front, &mut out);
    }
    marks(&chart, &items, &labels, &mut out);
    names(&chart, &items, &labels, &mut out);
    for (number, note) in notes.iter().enumerate() {
        let y = BOTTOM + 58.0 + NOTE * number as f64;
        let _ = writeln!(
            out,
            "<text class=\"note\" x=\"{LEFT}\" y=\"{y}\">{}</text>",
            escaped(note)
        );
    }
    out.push_str("</svg>\n");
    out
}

fn title(column: &str) -> String {
    format!("Held-out loss against bytes, {column}")
}

/// Where names may stand.
fn frame() -> Rect {
    Rect {
        left: LEFT + 3.0,
        top: TOP,
        right: LEFT + WIDTH,
        bottom: BOTTOM - 3.0,
    }
}

impl<'a> Chart<'a> {
    fn of(rows: &'a [Row], column: &str) -> Self {
        let mut drawn: Vec<(&Row, f64)> = rows
            .iter()
            .filter(|row| row.column == column && row.bytes_per_token > 0.0)
            .filter_map(|row| Some((row, row.loss?)))
            .collect();
        drawn.sort_by(|a, b| a.1.total_cmp(&b.1));
        let best = drawn.first().map_or(0.0, |(_, loss)| *loss);
        let median = drawn.get(drawn.len() / 2).map_or(0.0, |(_, loss)| *loss);
        let cut = best + 2.0 * (median - best).max(best * 0.01);
        let far = drawn.split_off(drawn.partition_point(|(_, loss)| *loss <= cut));
        let x = Axis::of(
            drawn.iter().map(|(row, _)| row.bytes_per_token.log10()),
            LEFT,
            LEFT + WIDTH,
        );
        let y = Axis::of(drawn.iter().map(|(_, loss)| *loss), BOTTOM, TOP);
        Self { drawn, far, x, y }
    }

    fn items(&self) -> Vec<Item> {
        let item = |(row, loss): &(&Row, f64)| Item {
            at: (self.x.place(row.bytes_per_token.log10()), self.y.place(*loss)),
            bar: (self.y.place(loss + row.spread), self.y.place(loss - row.spread)),
            name: row.name.clone(),
        };
        self.drawn.iter().map(item).collect()
    }

    /// The Pareto front: nothing is better in both.
    fn front(&self) -> Vec<Spot> {
        let mut by_bytes: Vec<(f64, f64)> = self
            .drawn
            .iter()
            .map(|(row, loss)| (row.bytes_per_token, *loss))
            .collect();
        by_bytes.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let mut least = f64::INFINITY;
        by_bytes.retain(|(_, loss)| {
            *loss < least && {
                least = *loss;
                true
            }
        });
        let spot = |(bytes, loss): &(f64, f64)| (self.x.place(bytes.log10()), self.y.place(*loss));
        by_bytes.iter().map(spot).collect()
    }

    /// What the picture does not show, in lines that fit under it.
    fn notes(&self, labels: &[Option<Label>]) -> Vec<String> {
        let mut notes = Vec::new();
        if self.drawn.is_empty() {
            notes.push("no arm of this column is done yet".to_string());
        }
        let far = self.far.iter().map(|(row, loss)| format!("{} ({loss:.3})", row.name));
        listed("above the picture: ", far, &mut notes);
        let nameless = self.drawn.iter().zip(labels).filter(|(_, label)| label.is_none());
        let nameless = nameless.map(|((row, loss), _)| format!("{} ({:.1}, {loss:.3})", row.name, row.bytes_per_token));
        listed("without room for their names (bytes, loss): ", nameless, &mut notes);
        notes
    }
}

/// Appends `names` after `head`, in as many lines as they need.
fn listed(head: &str, names: impl Iterator<Item = String>, notes: &mut Vec<String>) {
    let mut line = String::new();
    for name in names {
        let longer = match line.is_empty() {
            true => format!("{head}{name}"),
            false => format!("{line}; {name}"),
        };
        line = match width_of(&longer, FONT) <= WIDTH || line.is_empty() {
            true => longer,
            false => {
                notes.push(format!("{line};"));
                name
            }
        };
    }
    if !line.is_empty() {
        notes.push(line);
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// What colours and lines mean, under the title.
fn key(out: &mut String) {
    let y = 46.0;
    let mut x = LEFT;
    for (drawing, text) in [
        ("<circle class=\"ours\" cx=\"0\" cy=\"0\" r=\"4\"/>", "Atoll"),
        ("<circle class=\"theirs\" cx=\"0\" cy=\"0\" r=\"4\"/>", "other methods"),
        (
            "<path class=\"front\" d=\"M-8 0H8\" stroke-dasharray=\"5 4\"/>",
            "nothing is better in both",
        ),
        ("<path class=\"axis\" d=\"M0 -7V7\"/>", "range over the seeds"),
    ] {
        let _ = writeln!(
            out,
            "<g transform=\"translate({:.1} {:.1})\">{drawing}</g><text class=\"note\" x=\"{:.1}\" y=\"{y}\">{text}</text>",
            x + 8.0,
            y - 4.0,
            x + 22.0
        );
        x += 22.0 + width_of(text, FONT) + 22.0;
    }
}

fn axes(x: &Axis, y: &Axis, out: &mut String) {
    let (right, middle) = (LEFT + WIDTH, TOP + HEIGHT / 2.0);
    for power in x.low.ceil() as i32..=x.high.floor() as i32 {
        let at = x.place(f64::from(power));
        let label = match power {
            0.. => format!("{}", 10f64.powi(power)),
            _ => format!("{:.*}", power.unsigned_abs() as usize, 10f64.powi(power)),
        };
        let _ = writeln!(
            out,
            "<path class=\"grid\" d=\"M{at:.1} {TOP}V{BOTTOM}\"/><text class=\"text\" x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
            BOTTOM + 16.0
        );
    }
    let step = nice((y.high - y.low) / 6.0);
    let mut value = (y.low / step).ceil() * step;
    while value <= y.high {
        let at = y.place(value);
        let _ = writeln!(
            out,
            "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/><text class=\"text\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value:.3}</text>",
            LEFT - 6.0,
            at + 4.0
        );
        value += step;
    }
    let _ = writeln!(
        out,
        "<path class=\"axis\" d=\"M{LEFT} {TOP}V{BOTTOM}H{right}\" fill=\"none\"/>\n<text class=\"text\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">bytes that a peer sends and receives per token it trains on</text>\n<text class=\"text\" x=\"18\" y=\"{middle}\" transform=\"rotate(-90 18 {middle})\" text-anchor=\"middle\">nats per token</text>",
        LEFT + WIDTH / 2.0,
        BOTTOM + 36.0,
    );
}

/// 1, 2 or 5 times a power of ten, at least `step`.
fn nice(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let chosen = [1.0, 2.0, 5.0, 10.0].into_iter().find(|times| times * power >= step);
    chosen.unwrap_or(10.0) * power
}

fn line(front: &[Spot], out: &mut String) {
    let mut path = String::new();
    for (x, y) in front {
        let command = if path.is_empty() { 'M' } else { 'L' };
        let _ = write!(path, "{command}{x:.1} {y:.1}");
    }
    let _ = writeln!(
        out,
        "<path class=\"front\" d=\"{path}\" fill=\"none\" stroke-dasharray=\"5 4\"/>"
    );
}

fn class(row: &Row) -> &'static str {
    match row.name.starts_with("atoll") {
        true => "ours",
        false => "theirs",
    }
}

/// Lines to the names, bars and points.
fn marks(chart: &Chart, items: &[Item], labels: &[Option<Label>], out: &mut String) {
    for label in labels {
        if let Some(((from_x, from_y), (to_x, to_y))) = label.and_then(|label| label.leader) {
            let _ = writeln!(
                out,
                "<path class=\"axis leader\" d=\"M{from_x:.1} {from_y:.1}L{to_x:.1} {to_y:.1}\"/>"
            );
        }
    }
    for ((row, _), item) in chart.drawn.iter().zip(items) {
        let ((x, y), (high, low)) = (item.at, item.bar);
        let _ = writeln!(
            out,
            "<g class=\"{}\"><path d=\"M{x:.1} {high:.1}V{low:.1}\"/><circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/></g>",
            class(row)
        );
    }
}

fn names(chart: &Chart, items: &[Item], labels: &[Option<Label>], out: &mut String) {
    for (((row, _), item), label) in chart.drawn.iter().zip(items).zip(labels) {
        let Some(label) = label else { continue };
        let (x, anchor) = match label.rect {
            rect if rect.left >= item.at.0 => (rect.left, "start"),
            rect if rect.right <= item.at.0 => (rect.right, "end"),
            rect => ((rect.left + rect.right) / 2.0, "middle"),
        };
        let _ = writeln!(
            out,
            "<text class=\"{} name\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
            class(row),
            label.rect.bottom - 3.0,
            escaped(&row.name)
        );
    }
}

#[cfg(test)]
mod tests;
