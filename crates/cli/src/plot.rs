//! A loss curve for the terminal: two dots across and four down in each character (braille).

const WIDTH: usize = 60;
const HEIGHT: usize = 12;

/// Draws `values` against their number, with the scale at the left. Nothing below two values.
pub(crate) fn curve(values: &[f64]) -> String {
    let finite: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    if finite.len() < 2 {
        return String::new();
    }
    let (low, high) = finite
        .iter()
        .fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(*v), high.max(*v)));
    let span = (high - low).max(1e-9);
    let (columns, rows) = (WIDTH * 2, HEIGHT * 4);
    let mut cells = vec![[0u8; WIDTH]; HEIGHT];
    let mut before: Option<usize> = None;
    for x in 0..columns {
        let at = x as f64 / (columns - 1) as f64 * (finite.len() - 1) as f64;
        let (left, share) = (at.floor() as usize, at.fract());
        let right = (left + 1).min(finite.len() - 1);
        let value = finite[left] * (1.0 - share) + finite[right] * share;
        let y = ((high - value) / span * (rows - 1) as f64).round() as usize;
        let from = before.unwrap_or(y);
        for y in from.min(y)..=from.max(y) {
            cells[y / 4][x / 2] |= dot(x % 2, y % 4);
        }
        before = Some(y);
    }
    let line = |(row, cells): (usize, &[u8; WIDTH])| {
        let value = high - span * row as f64 / (HEIGHT - 1) as f64;
        let drawn: String = cells
            .iter()
            .map(|cell| char::from_u32(0x2800 + u32::from(*cell)).unwrap_or(' '))
            .collect();
        format!("{value:>8.3} ┤{}\n", drawn.trim_end_matches('\u{2800}'))
    };
    let mut drawn: String = cells.iter().enumerate().map(line).collect();
    if finite.len() < values.len() {
        drawn.push_str(&format!(
            "{} of {} are no numbers and left out\n",
            values.len() - finite.len(),
            values.len()
        ));
    }
    drawn
}

/// The bit of a dot in a braille character (Unicode 1.1, block U+2800).
fn dot(x: usize, y: usize) -> u8 {
    match (x, y) {
        (0, 3) => 0x40,
        (1, 3) => 0x80,
        (0, y) => 1 << y,
        (_, y) => 8 << y,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_falling_line_goes_from_top_left_to_bottom_right() {
        let text = curve(&[3.0, 2.0, 1.0]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), HEIGHT);
        assert!(
            lines[0].starts_with("   3.000 ┤⠉") || lines[0].starts_with("   3.000 ┤⠑"),
            "{}",
            lines[0]
        );
        assert!(lines[HEIGHT - 1].starts_with("   1.000 ┤"));
        assert!(lines[HEIGHT - 1].chars().count() > lines[0].chars().count());
    }

    #[test]
    fn too_little_or_flat() {
        assert_eq!(curve(&[1.0, f64::NAN]), "");
        assert_eq!(curve(&[1.0, 1.0]).lines().count(), HEIGHT);
        let broken = curve(&[2.0, f64::NAN, 1.0, f64::INFINITY]);
        assert!(broken.ends_with("2 of 4 are no numbers and left out\n"), "{broken}");
    }
}
