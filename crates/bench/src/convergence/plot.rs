//! Loss against bytes as a picture (SVG 1.1): down and to the left is better.

use super::table::Row;
use std::fmt::Write as _;

const LEFT: f64 = 70.0;
const TOP: f64 = 50.0;
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
/// Room between labels.
const LINE: f64 = 13.0;

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

    fn place(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }
}

/// The finished arms of one column. Arms more than twice as far above the best as the median are left out,
/// and named.
pub fn svg(rows: &[Row], column: &str) -> String {
    let mut finite: Vec<(&Row, f64)> = rows
        .iter()
        .filter(|row| row.column == column && row.bytes_per_token > 0.0)
        .filter_map(|row| Some((row, row.loss?)))
        .collect();
    finite.sort_by(|a, b| a.1.total_cmp(&b.1));
    let best = finite.first().map_or(0.0, |(_, loss)| *loss);
    let median = finite.get(finite.len() / 2).map_or(0.0, |(_, loss)| *loss);
    let cut = best + 2.0 * (median - best).max(best * 0.01);
    let far: Vec<&str> = finite
        .iter()
        .filter(|(_, loss)| *loss > cut)
        .map(|(row, _)| row.name.as_str())
        .collect();
    finite.retain(|(_, loss)| *loss <= cut);
    let mut out = String::new();
    let (full_width, full_height) = (LEFT + WIDTH + 160.0, TOP + HEIGHT + 70.0);
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{full_width}\" height=\"{full_height}\" viewBox=\"0 0 {full_width} {full_height}\" font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"{full_width}\" height=\"{full_height}\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"24\" font-size=\"15\">Held-out loss against bytes, {}</text>",
        escaped(column)
    );
    let x = Axis::of(
        finite.iter().map(|(row, _)| row.bytes_per_token.log10()),
        LEFT,
        LEFT + WIDTH,
    );
    let y = Axis::of(finite.iter().map(|(_, loss)| *loss), TOP + HEIGHT, TOP);
    axes(&x, &y, &mut out);
    front(&finite, &x, &y, &mut out);
    points(&finite, &x, &y, &mut out);
    if !far.is_empty() {
        let _ = writeln!(
            out,
            "<text x=\"{LEFT}\" y=\"{}\" fill=\"#666666\">above the picture: {}</text>",
            TOP + HEIGHT + 58.0,
            escaped(&far.join(", "))
        );
    }
    out.push_str("</svg>\n");
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

fn axes(x: &Axis, y: &Axis, out: &mut String) {
    let bottom = TOP + HEIGHT;
    let _ = writeln!(
        out,
        "<path d=\"M{LEFT} {TOP}V{bottom}H{}\" fill=\"none\" stroke=\"#444444\"/>\n<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">bytes that a peer sends and receives per token it trains on</text>\n<text x=\"16\" y=\"{}\" transform=\"rotate(-90 16 {})\" text-anchor=\"middle\">nats per token</text>",
        LEFT + WIDTH,
        LEFT + WIDTH / 2.0,
        bottom + 40.0,
        TOP + HEIGHT / 2.0,
        TOP + HEIGHT / 2.0,
    );
    for power in x.low.ceil() as i32..=x.high.floor() as i32 {
        let at = x.place(f64::from(power));
        let label = match power {
            0.. => format!("{}", 10f64.powi(power)),
            _ => format!("{:.*}", (-power) as usize, 10f64.powi(power)),
        };
        let _ = writeln!(
            out,
            "<path d=\"M{at:.1} {TOP}V{bottom}\" stroke=\"#e4e4e4\"/><text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
            bottom + 16.0
        );
    }
    let step = nice((y.high - y.low) / 6.0);
    let mut value = (y.low / step).ceil() * step;
    while value <= y.high {
        let at = y.place(value);
        let _ = writeln!(
            out,
            "<path d=\"M{LEFT} {at:.1}H{}\" stroke=\"#e4e4e4\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value:.3}</text>",
            LEFT + WIDTH,
            LEFT - 6.0,
            at + 4.0
        );
        value += step;
    }
}

/// 1, 2 or 5 times a power of ten, at least `step`.
fn nice(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let chosen = [1.0, 2.0, 5.0, 10.0].into_iter().find(|times| times * power >= step);
    chosen.unwrap_or(10.0) * power
}

/// The Pareto front: nothing is better in both.
fn front(points: &[(&Row, f64)], x: &Axis, y: &Axis, out: &mut String) {
    let mut by_bytes: Vec<(f64, f64)> = points.iter().map(|(row, loss)| (row.bytes_per_token, *loss)).collect();
    by_bytes.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let mut path = String::new();
    let mut least = f64::INFINITY;
    for (bytes, loss) in by_bytes {
        if loss < least {
            least = loss;
            let command = if path.is_empty() { 'M' } else { 'L' };
            let _ = write!(path, "{command}{:.1} {:.1}", x.place(bytes.log10()), y.place(loss));
        }
    }
    let _ = writeln!(
        out,
        "<path d=\"{path}\" fill=\"none\" stroke=\"#009e73\" stroke-dasharray=\"5 4\"/>"
    );
}

fn points(points: &[(&Row, f64)], x: &Axis, y: &Axis, out: &mut String) {
    let mut labels: Vec<(f64, f64)> = Vec::new();
    for (row, loss) in points {
        let (at_x, at_y) = (x.place(row.bytes_per_token.log10()), y.place(*loss));
        let ours = row.name.starts_with("atoll");
        let colour = if ours { "#0072b2" } else { "#d55e00" };
        let (low, high) = (y.place(loss - row.spread), y.place(loss + row.spread));
        let mut label_y = at_y + 4.0;
        while labels
            .iter()
            .any(|(other_x, other_y)| (other_x - at_x).abs() < 150.0 && (other_y - label_y).abs() < LINE)
        {
            label_y -= LINE;
        }
        labels.push((at_x, label_y));
        let _ = writeln!(
            out,
            "<path d=\"M{at_x:.1} {low:.1}V{high:.1}\" stroke=\"{colour}\"/><circle cx=\"{at_x:.1}\" cy=\"{at_y:.1}\" r=\"4\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{label_y:.1}\">{}</text>",
            at_x + 8.0,
            escaped(&row.name)
        );
    }
}
