//! Where a text is cut, so that each part is tokenized by itself: the same cuts for training, founding,
//! evaluating and prompts, wherever a stranger's text becomes tokens.
//!
//! A cut at a seam changes no token: known pre-tokenizers start a new word there anyway. What has no
//! seam (a run of letters, of blanks, of digits) is cut every [`RUN_BYTES`], because tokenizers take
//! more than linear time for one long word.

/// Bytes of a piece: the library needs some 100 bytes of memory for each.
const PIECE_BYTES: usize = 16 * 1024;
/// Bytes without a seam.
const RUN_BYTES: usize = 1024;

/// `text` in parts, of which none is empty. Cutting a part again gives the same part.
pub(super) fn pieces(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let (piece, rest) = text.split_at(first_cut(text));
        text = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Bytes of the first piece.
fn first_cut(text: &str) -> usize {
    let (mut seam, mut weak) = (0, 0);
    let mut before = None;
    for (at, next) in text.char_indices() {
        if at >= PIECE_BYTES {
            return seam;
        }
        match before {
            Some(before) if is_seam(before, next) => seam = at,
            Some(before) if is_weak_seam(before, next) => weak = at,
            _ => {}
        }
        if at + next.len_utf8() > seam + RUN_BYTES {
            return if weak > seam { weak } else { at };
        }
        before = Some(next);
    }
    text.len()
}

/// Before the blank behind a word. Some tokenizers keep a newline with the punctuation before it.
fn is_seam(before: char, next: char) -> bool {
    next.is_whitespace() && !before.is_whitespace() && (before.is_alphanumeric() || !matches!(next, '\n' | '\r'))
}

/// Behind a word without a blank: most tokenizers start a new word there.
fn is_weak_seam(before: char, next: char) -> bool {
    before.is_alphanumeric() && !next.is_alphanumeric() && !matches!(next, '\'' | '’')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lengths(text: &str) -> Vec<usize> {
        pieces(text).map(str::len).collect()
    }

    #[test]
    fn prose_is_cut_before_blanks_and_runs_every_kibibyte() {
        let prose = "word and another ".repeat(2000);
        let parts: Vec<_> = pieces(&prose).collect();
        assert_eq!(parts.len(), 3);
        for part in &parts[1..] {
            assert!(part.starts_with(' '), "{:?}", &part[..9]);
        }
        assert_eq!(lengths(&"a".repeat(3000)), [1024, 1024, 952]);
        assert_eq!(lengths(&" ".repeat(2048)), [1024, 1024]);
        assert_eq!(lengths(&"\n".repeat(1025)), [1024, 1]);
        assert_eq!(lengths(&"環".repeat(700)), [1023, 1023, 54], "never inside a character");
        assert_eq!(lengths(""), [0; 0]);
        let list = "abcdefghi,".repeat(200);
        assert_eq!(
            lengths(&list),
            [1019, 981],
            "a run is cut behind a word where it has one"
        );
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_a_piece_stays_whole(words in prop::collection::vec("[a-c .,'\n\té環👍🏽\u{200d}0]{1,40}", 0..40), times in 1usize..60) {
            let text = words.concat().repeat(times);
            let parts: Vec<_> = pieces(&text).collect();
            prop_assert_eq!(parts.concat(), text.as_str());
            for part in parts {
                prop_assert!(part.len() < PIECE_BYTES + 4);
                prop_assert_eq!(lengths(part), [part.len()]);
            }
        }
    }
}
