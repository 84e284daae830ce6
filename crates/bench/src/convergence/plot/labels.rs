//! Where the names stand: each beside its point, or at the end of a line that leads to it; no two on one another.
//!
//! Every name tries places around its point in turn and takes the cheapest, again and again until none moves.
//! The same rows give the same picture on every machine: what its libm makes is rounded first.

/// Height of a line of text, and of the letters in it.
const LINE: f64 = 13.0;
/// Size of the letters.
pub(super) const FONT: f64 = 11.0;
/// Half the width of a point, with the room that it keeps around it.
const POINT: f64 = 6.0;
/// Distances that names are tried at. Up to [`BESIDE`] no line is needed.
const DISTANCES: [f64; 14] = [
    8.0, 14.0, 20.0, 28.0, 38.0, 50.0, 64.0, 80.0, 100.0, 125.0, 155.0, 190.0, 230.0, 280.0,
];
const BESIDE: f64 = 8.0;
/// Directions that names are tried in.
const DIRECTIONS: u32 = 32;
/// How often all names are tried again.
const PASSES: usize = 24;
/// What a place may not do; more than all else together.
const NEVER: f64 = 1e6;

/// A rectangle on the page.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rect {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) right: f64,
    pub(super) bottom: f64,
}

pub(super) type Spot = (f64, f64);

impl Rect {
    pub(super) fn around((x, y): Spot, half_width: f64, half_height: f64) -> Self {
        Self {
            left: x - half_width,
            top: y - half_height,
            right: x + half_width,
            bottom: y + half_height,
        }
    }

    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.left < other.right && other.left < self.right && self.top < other.bottom && other.top < self.bottom
    }

    fn holds(&self, inner: &Self) -> bool {
        self.left <= inner.left && inner.right <= self.right && self.top <= inner.top && inner.bottom <= self.bottom
    }

    /// The spot in it that is nearest to `of`.
    fn nearest(&self, of: Spot) -> Spot {
        (of.0.clamp(self.left, self.right), of.1.clamp(self.top, self.bottom))
    }

    /// How far it is to `of`.
    fn distance(&self, of: Spot) -> f64 {
        let (x, y) = self.nearest(of);
        ((x - of.0) * (x - of.0) + (y - of.1) * (y - of.1)).sqrt()
    }

    fn meets(&self, line: (Spot, Spot)) -> bool {
        let inside = |(x, y): Spot| self.left < x && x < self.right && self.top < y && y < self.bottom;
        let corners = [
            (self.left, self.top),
            (self.right, self.bottom),
            (self.left, self.bottom),
            (self.right, self.top),
        ];
        let diagonals = [(corners[0], corners[1]), (corners[2], corners[3])];
        inside(line.0) || inside(line.1) || diagonals.into_iter().any(|diagonal| cross(line, diagonal))
    }
}

/// A point, its name, and how far its bar reaches.
pub(super) struct Item {
    pub(super) at: Spot,
    /// Upper and lower end of the bar.
    pub(super) bar: (f64, f64),
    pub(super) name: String,
}

impl Item {
    fn body(&self) -> Rect {
        Rect::around(self.at, POINT, POINT)
    }

    fn bar(&self) -> Rect {
        Rect {
            left: self.at.0 - 2.0,
            top: self.bar.0,
            right: self.at.0 + 2.0,
            bottom: self.bar.1,
        }
    }
}

/// A name in its place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Label {
    pub(super) rect: Rect,
    /// From the point to the name, where it does not stand beside it.
    pub(super) leader: Option<(Spot, Spot)>,
}

/// A place for each of `items` within `frame`; none where there is no room. `path` is a line that names rather
/// leave free.
pub(super) fn place(items: &[Item], frame: Rect, path: &[Spot]) -> Vec<Option<Label>> {
    let scene = Scene { items, frame, path };
    let orders: [&dyn Fn(&Item) -> f64; 4] = [&|item| item.at.0, &|item| -item.at.0, &|item| item.at.1, &|item| {
        -item.at.1
    }];
    let tried = orders.iter().map(|by| {
        let mut order: Vec<usize> = (0..items.len()).collect();
        order.sort_by(|a, b| by(&items[*a]).total_cmp(&by(&items[*b])));
        scene.settle(&order)
    });
    let best = tried.min_by(|a, b| a.0.total_cmp(&b.0));
    best.map_or_else(Vec::new, |(_, labels)| labels)
}

/// `value` to the next of `parts` parts of one.
pub(super) fn rounded(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

/// How wide `text` is in the widest of the usual fonts (DejaVu Sans, Verdana).
pub(super) fn width_of(text: &str, font: f64) -> f64 {
    let of = |letter: char| match letter {
        'i' | 'j' | 'l' | '.' | ',' | ':' | ' ' | '|' | '\'' | 'I' => 0.34,
        'f' | 'r' | 't' | '(' | ')' | '-' => 0.42,
        'm' | 'w' | 'M' | 'W' | '=' | '+' | '%' => 0.98,
        'A'..='Z' => 0.76,
        letter if letter.is_ascii() => 0.64,
        _ => 0.8,
    };
    text.chars().map(of).sum::<f64>() * font
}

struct Scene<'a> {
    items: &'a [Item],
    frame: Rect,
    path: &'a [Spot],
}

impl Scene<'_> {
    /// The whole cost and the places, when names choose in `order` until none moves.
    fn settle(&self, order: &[usize]) -> (f64, Vec<Option<Label>>) {
        let mut labels: Vec<Option<Label>> = vec![None; self.items.len()];
        for _ in 0..PASSES {
            let before = labels.clone();
            for &index in order {
                labels[index] = self.cheapest(index, &labels).map(|(_, label)| label);
            }
            if labels == before {
                break;
            }
        }
        let cost = (0..labels.len()).map(|index| match &labels[index] {
            Some(label) => self.cost(index, label, &labels),
            None => NEVER,
        });
        (cost.sum(), labels)
    }

    fn cheapest(&self, index: usize, labels: &[Option<Label>]) -> Option<(f64, Label)> {
        let places = self.places(&self.items[index]);
        let costs = places.map(|label| (self.cost(index, &label, labels), label));
        costs
            .filter(|(cost, _)| *cost < NEVER)
            .min_by(|a, b| a.0.total_cmp(&b.0))
    }

    fn places<'b>(&self, item: &'b Item) -> impl Iterator<Item = Label> + use<'b> {
        let half = width_of(&item.name, FONT) / 2.0;
        DISTANCES.into_iter().flat_map(move |distance| {
            (0..DIRECTIONS).map(move |turn| {
                let (sine, cosine) = (f64::from(turn) * std::f64::consts::TAU / f64::from(DIRECTIONS)).sin_cos();
                let (sine, cosine) = (rounded(sine, 1e4), rounded(cosine, 1e4));
                // the name's nearest edge, not its middle, is that far away
                let middle_x = item.at.0 + cosine * distance + half * (cosine * 2.0).clamp(-1.0, 1.0);
                let middle_y = item.at.1 + sine * (distance + LINE / 2.0 * sine.abs());
                let rect = Rect::around((middle_x, middle_y), half, LINE / 2.0);
                let leader = (distance > BESIDE).then(|| (item.at, rect.nearest(item.at)));
                Label { rect, leader }
            })
        })
    }

    /// What it costs that the name of `index` stands at `label` while the others stand where they do.
    fn cost(&self, index: usize, label: &Label, labels: &[Option<Label>]) -> f64 {
        if !self.frame.holds(&label.rect) {
            return NEVER;
        }
        let own = &self.items[index];
        let mut cost = label.rect.distance(own.at);
        // right of the point is where one looks first
        cost += if label.rect.left >= own.at.0 { 0.0 } else { 4.0 };
        for (other, item) in self.items.iter().enumerate() {
            cost += f64::from(u8::from(label.rect.overlaps(&item.body()))) * NEVER;
            cost += f64::from(u8::from(label.rect.overlaps(&item.bar()))) * 60.0;
            if other == index {
                continue;
            }
            if let Some(leader) = label.leader {
                cost += f64::from(u8::from(item.body().meets(leader))) * 150.0;
                cost += f64::from(u8::from(item.bar().meets(leader))) * 12.0;
            }
            if item.at != own.at {
                // beside two points one cannot tell whose name it is
                let distance = label.rect.distance(item.at);
                let certain = if label.leader.is_some() { 3.0 } else { 8.0 };
                cost += (16.0 - distance).max(0.0) * certain;
            }
            if let Some(there) = &labels[other] {
                cost += between(label, there);
            }
            if cost >= NEVER {
                return cost; // the rest cannot make it better
            }
        }
        let steps = self.path.windows(2).filter(|step| label.rect.meets((step[0], step[1])));
        cost + steps.count() as f64 * 30.0
    }
}

/// What two names cost each other.
fn between(a: &Label, b: &Label) -> f64 {
    let mut cost = f64::from(u8::from(a.rect.overlaps(&b.rect))) * NEVER;
    let through = |label: &Label, other: &Label| other.leader.is_some_and(|leader| label.rect.meets(leader));
    cost += f64::from(u8::from(through(a, b)) + u8::from(through(b, a))) * 400.0;
    if let (Some(one), Some(other)) = (a.leader, b.leader) {
        cost += f64::from(u8::from(cross(one, other))) * 300.0;
    }
    cost
}

/// Whether two lines cross within both.
fn cross((a, b): (Spot, Spot), (c, d): (Spot, Spot)) -> bool {
    let side = |from: Spot, to: Spot, of: Spot| (to.0 - from.0) * (of.1 - from.1) - (to.1 - from.1) * (of.0 - from.0);
    side(a, b, c) * side(a, b, d) < 0.0 && side(c, d, a) * side(c, d, b) < 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Rect = Rect {
        left: 70.0,
        top: 60.0,
        right: 970.0,
        bottom: 560.0,
    };

    /// Points of chance in a part of the frame: all of it, or a corner of it.
    fn crowd(count: usize, seed: u64, part: f64) -> Vec<Item> {
        let mut state = seed;
        let mut chance = move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / f64::from(1 << 24)
        };
        (0..count)
            .map(|index| {
                let at = (90.0 + 850.0 * part * chance(), 80.0 + 450.0 * part * chance());
                let half = 12.0 * chance();
                Item {
                    at,
                    bar: (at.1 - half, at.1 + half),
                    name: format!("arm {index}, {}", "links of ρ ".repeat(index % 3)),
                }
            })
            .collect()
    }

    #[test]
    fn names_keep_clear_of_each_other_of_points_and_of_the_edge() {
        for (count, part, nameless_max) in [(1, 1.0, 0), (12, 0.2, 0), (25, 1.0, 0), (25, 0.35, 0), (60, 0.4, 60)] {
            for seed in 0..3 {
                let items = crowd(count, seed, part);
                let placed = place(&items, FRAME, &[(80.0, 90.0), (600.0, 500.0)]);
                assert_eq!(placed.len(), count);
                let nameless = placed.iter().filter(|label| label.is_none()).count();
                assert!(nameless <= nameless_max, "{nameless} of {count} have no place");
                for (index, label) in placed.iter().enumerate() {
                    let Some(label) = label else { continue };
                    assert!(FRAME.holds(&label.rect), "{label:?}");
                    assert!((label.rect.right - label.rect.left - width_of(&items[index].name, FONT)).abs() < 1e-6);
                    assert!(items.iter().all(|item| !label.rect.overlaps(&item.body())), "{label:?}");
                    let others = placed[..index].iter().flatten();
                    assert!(
                        others.into_iter().all(|other| !label.rect.overlaps(&other.rect)),
                        "{label:?}"
                    );
                    let end = label.rect.nearest(items[index].at);
                    let away = label.rect.distance(items[index].at);
                    match label.leader {
                        Some(leader) => assert_eq!(leader, (items[index].at, end)),
                        None => assert!(away <= 12.0, "{away} from its point without a line"),
                    }
                }
            }
        }
    }

    #[test]
    fn a_lone_point_has_its_name_to_the_right_without_a_line() {
        let item = Item {
            at: (300.0, 300.0),
            bar: (295.0, 305.0),
            name: "atoll int4".into(),
        };
        let placed = place(&[item], FRAME, &[])[0].unwrap();
        assert_eq!(placed.leader, None);
        assert!(placed.rect.left > 300.0 && placed.rect.left < 310.0, "{placed:?}");
    }

    #[test]
    fn two_points_in_one_place_have_two_names() {
        let item = |name: &str| Item {
            at: (300.0, 300.0),
            bar: (290.0, 310.0),
            name: name.into(),
        };
        let placed = place(&[item("one"), item("other")], FRAME, &[]);
        let [Some(one), Some(other)] = placed[..] else {
            panic!("{placed:?}")
        };
        assert!(!one.rect.overlaps(&other.rect));
    }

    #[test]
    fn lines_and_whether_they_cross() {
        let at = |x: i32, y: i32| (f64::from(x), f64::from(y));
        for (one, other, crossing) in [
            ((at(0, 0), at(10, 10)), (at(0, 10), at(10, 0)), true),
            ((at(0, 0), at(10, 10)), (at(0, 10), at(4, 6)), false),
            ((at(0, 0), at(10, 0)), (at(0, 1), at(10, 1)), false),
            ((at(0, 0), at(10, 0)), (at(0, 0), at(0, 10)), false),
        ] {
            assert_eq!(cross(one, other), crossing, "{one:?} {other:?}");
        }
        let square = Rect::around((5.0, 5.0), 2.0, 2.0);
        assert!(square.meets((at(0, 5), at(10, 5))) && square.meets((at(5, 5), at(6, 6))));
        assert!(!square.meets((at(0, 0), at(10, 1))));
    }
}
