//! What a picture must keep: each text readable, in light and dark.

use super::*;

fn row(name: &str, bytes_per_token: f64, loss: f64) -> Row {
    Row {
        name: name.into(),
        column: "N = 4".into(),
        loss: Some(loss),
        spread: 0.01,
        seeds: 3,
        gap_percent: None,
        train_loss: None,
        bytes_per_token,
        bytes_per_parameter: 0.0,
        codecs: vec![],
        setting: String::new(),
        time: [None; 4],
        utilisation: 0.0,
    }
}

/// Every upright text of a picture, with the room that it takes.
fn texts(svg: &str) -> Vec<(Rect, String)> {
    let field = |tag: &str, name: &str| {
        let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
        rest.split_once('"').map(|(value, _)| value.to_string())
    };
    let pieces = svg.split("<text").skip(1).filter(|piece| !piece.contains("rotate"));
    pieces
        .map(|piece| {
            let (tag, rest) = piece.split_once('>').unwrap();
            let text = rest.split_once("</text>").unwrap().0.to_string();
            let number = |name: &str| field(tag, name).map(|value| value.parse::<f64>().unwrap());
            let (x, y, font) = (
                number("x").unwrap(),
                number("y").unwrap(),
                number("font-size").unwrap_or(FONT),
            );
            let width = width_of(&text, font);
            let left = match field(tag, "text-anchor").as_deref() {
                Some("middle") => x - width / 2.0,
                Some("end") => x - width,
                _ => x,
            };
            let (right, top, bottom) = (left + width, y - font * 0.8, y + font * 0.2);
            (
                Rect {
                    left,
                    top,
                    right,
                    bottom,
                },
                text,
            )
        })
        .collect()
}

#[test]
fn no_text_of_a_crowded_picture_lies_on_another_or_outside() {
    let crowded = (0..18).map(|index| {
        let (bytes, loss) = (100.0 + f64::from(index * 7 % 11) * 8.0, 1.75 + f64::from(index) * 0.006);
        row(&format!("atoll auto {index}, links of ρ = 357"), bytes, loss)
    });
    let far = (0..9).map(|index| {
        row(
            &format!("a far arm that does not learn {index}"),
            50.0,
            4.0 + f64::from(index),
        )
    });
    let alone = [("all-reduce", 95_856.0, 1.676), ("diloco <x> & co", 6392.0, 1.5)];
    let alone = alone.map(|(name, bytes, loss)| row(name, bytes, loss));
    let rows: Vec<Row> = crowded.chain(alone).chain(far).collect();
    let svg = svg(&rows, "N = 4");
    let texts = texts(&svg);
    let named = |part: &str| texts.iter().filter(|(_, text)| text.contains(part)).count();
    assert_eq!(named("links of"), 18, "every point has its name");
    assert_eq!((named("diloco &lt;x> &amp; co"), named("above the picture")), (1, 1));
    for (index, (rect, text)) in texts.iter().enumerate() {
        assert!(
            rect.left >= 0.0 && rect.right <= FULL_WIDTH && rect.top >= 0.0,
            "{text}: {rect:?}"
        );
        for (other, other_text) in &texts[..index] {
            assert!(!rect.overlaps(other), "`{text}` lies on `{other_text}`");
        }
    }
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
}

#[test]
fn a_picture_has_colours_for_light_and_dark_and_one_for_each_side() {
    let svg = svg(
        &[row("atoll int4", 853.0, 1.711), row("diloco", 6392.0, 1.746)],
        "N = 4",
    );
    let (light, dark) = STYLE.split_once("@media (prefers-color-scheme:dark)").unwrap();
    for class in [
        "page", "text", "note", "axis", "grid", "ours", "theirs", "front", "name",
    ] {
        let rule = format!(".{class}{{");
        assert!(light.contains(&rule) && dark.contains(&rule), "{class}");
    }
    let colours = svg.replace(STYLE, "");
    assert!(
        !colours.contains('#'),
        "a colour outside the style stays the same in the dark: {colours}"
    );
    assert!(colours.contains("class=\"ours name\"") && colours.contains("class=\"theirs name\""));
}

#[test]
fn a_picture_of_nothing_says_so() {
    let svg = svg(&[row("atoll int4", 853.0, 1.711)], "another column");
    assert!(
        svg.contains("no arm of this column is done yet") && !svg.contains("NaN"),
        "{svg}"
    );
}
