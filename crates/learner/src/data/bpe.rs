//! Byte pair encoding, learned: of all neighbouring tokens the commonest pair becomes a token, again
//! and again (arXiv:1508.07909).
//!
//! Every token of every distinct word has a place, linked to its neighbours, and every pair knows its
//! places. A merge visits only those, and each visit takes away a token: all merges together cost
//! little more than one walk over the words, whatever the words are. The library's trainer moves a
//! whole word for each merge in it, and can be neither watched nor stopped.

use super::{TokenizerError, TrainProgress};
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    ops::ControlFlow,
};

/// No place: before the first or behind the last token of a word.
const NONE: u32 = u32::MAX;
/// What stands where a token was merged into the one before it.
const GONE: u32 = u32::MAX;
/// A pair that is rarer is no token.
const COUNT_MIN: u64 = 2;
/// Places that are visited between two looks at whether to go on.
const PLACES_PER_LOOK: usize = 1 << 18;

type Pair = (u32, u32);

/// Hears how far it is, and says whether to go on.
pub(super) type Watch<'a> = dyn FnMut(TrainProgress) -> ControlFlow<()> + 'a;

#[derive(Default)]
struct Places {
    token: Vec<u32>,
    before: Vec<u32>,
    behind: Vec<u32>,
    word: Vec<u32>,
}

/// How often a pair stands in the text, and at which places it may.
#[derive(Default)]
struct Standing {
    count: u64,
    places: Vec<u32>,
}

/// Learns merges from words of single-byte characters.
pub(super) struct Learning {
    places: Places,
    /// How often each word stands in the text.
    times: Vec<u64>,
    pairs: HashMap<Pair, Standing>,
    /// Pairs by count, then the least first. A count may be too great; it is looked up when it is its turn.
    queue: BinaryHeap<(u64, Reverse<Pair>)>,
    /// Text of each token.
    vocab: Vec<String>,
    ids: HashMap<String, u32>,
    /// In order.
    merges: Vec<Pair>,
    looked: usize,
    vocab_max: u32,
}

impl Learning {
    /// `alphabet`: the tokens to begin with, of which those with one character stand in `words`.
    pub(super) fn new(
        words: HashMap<String, u64>,
        alphabet: Vec<String>,
        vocab_max: u32,
        watch: &mut Watch<'_>,
    ) -> Result<Self, TokenizerError> {
        let ids: HashMap<String, u32> = alphabet.iter().cloned().zip(0..).collect();
        let mut learning = Self {
            places: Places::default(),
            times: Vec::with_capacity(words.len()),
            pairs: HashMap::new(),
            queue: BinaryHeap::new(),
            vocab: alphabet,
            ids,
            merges: Vec::new(),
            looked: 0,
            vocab_max,
        };
        for (word, times) in words {
            learning.add_word(&word, times)?;
            learning.look(watch)?;
        }
        let queue = learning.pairs.iter().map(|(pair, at)| (at.count, Reverse(*pair)));
        learning.queue = queue.collect();
        Ok(learning)
    }

    fn add_word(&mut self, word: &str, times: u64) -> Result<(), TokenizerError> {
        let number = self.times.len() as u32;
        self.times.push(times);
        let mut last = NONE;
        let mut letter = [0; 4];
        for letter in word
            .chars()
            .map(|c| self.ids.get(&*c.encode_utf8(&mut letter)).copied())
        {
            let Some(token) = letter else {
                last = NONE; // outside the alphabet
                continue;
            };
            let at = self.places.token.len();
            if at >= NONE as usize {
                return Err(TokenizerError::TooMuchText);
            }
            let at = at as u32;
            self.places.token.push(token);
            self.places.before.push(last);
            self.places.behind.push(NONE);
            self.places.word.push(number);
            if last != NONE {
                self.places.behind[last as usize] = at;
                let standing = self.pairs.entry((self.places.token[last as usize], token)).or_default();
                standing.count += times;
                standing.places.push(last);
            }
            last = at;
            self.looked += 1;
        }
        Ok(())
    }

    fn look(&mut self, watch: &mut Watch<'_>) -> Result<(), TokenizerError> {
        if self.looked < PLACES_PER_LOOK {
            return Ok(());
        }
        self.looked = 0;
        let progress = TrainProgress::Merging {
            tokens: self.vocab.len() as u32,
            of: self.vocab_max,
        };
        match watch(progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(TokenizerError::Stopped),
        }
    }

    /// Merges until there are enough tokens or no pair is common. Gives the tokens' texts by id, and
    /// the merges in order.
    pub(super) fn merge_all(mut self, watch: &mut Watch<'_>) -> Result<(Vec<String>, Vec<Pair>), TokenizerError> {
        while self.vocab.len() < self.vocab_max as usize {
            let Some((count, Reverse(pair))) = self.queue.pop() else {
                break;
            };
            match self.pairs.get(&pair) {
                Some(standing) if standing.count < COUNT_MIN => continue,
                Some(standing) if standing.count != count => self.queue.push((standing.count, Reverse(pair))),
                Some(_) => self.merge(pair, watch)?,
                None => {}
            }
            self.looked += 64;
            self.look(watch)?;
        }
        Ok((self.vocab, self.merges))
    }

    /// Makes `pair` a token wherever it stands, from left to right.
    fn merge(&mut self, pair: Pair, watch: &mut Watch<'_>) -> Result<(), TokenizerError> {
        let new = self.token_of(pair);
        self.merges.push(pair);
        let mut places = self.pairs.remove(&pair).unwrap_or_default().places;
        places.sort_unstable();
        let mut grown = Vec::new();
        for place in places {
            self.merge_at(place as usize, pair, new, &mut grown);
            self.looked += 1;
            self.look(watch)?;
        }
        grown.sort_unstable();
        grown.dedup();
        for pair in grown {
            if let Some(standing) = self.pairs.get(&pair) {
                self.queue.push((standing.count, Reverse(pair)));
            }
        }
        Ok(())
    }

    /// The token for `pair`; two pairs may spell the same.
    fn token_of(&mut self, (left, right): Pair) -> u32 {
        let text = [&*self.vocab[left as usize], &*self.vocab[right as usize]].concat();
        if let Some(id) = self.ids.get(&text) {
            return *id;
        }
        let id = self.vocab.len() as u32;
        self.ids.insert(text.clone(), id);
        self.vocab.push(text);
        id
    }

    fn merge_at(&mut self, at: usize, (left, right): Pair, new: u32, grown: &mut Vec<Pair>) {
        let places = &mut self.places;
        let next = places.behind[at];
        // the pair may have been merged with a neighbour since
        if places.token[at] != left || next == NONE || places.token[next as usize] != right {
            return;
        }
        let times = self.times[places.word[at] as usize];
        let (before, behind) = (places.before[at], places.behind[next as usize]);
        places.token[at] = new;
        places.token[next as usize] = GONE;
        places.behind[at] = behind;
        if behind != NONE {
            places.before[behind as usize] = at as u32;
        }
        let neighbours = [before, behind].map(|place| (place != NONE).then(|| self.places.token[place as usize]));
        if let Some(neighbour) = neighbours[0] {
            self.replace((neighbour, left), (neighbour, new), before, times, grown);
        }
        if let Some(neighbour) = neighbours[1] {
            self.replace((right, neighbour), (new, neighbour), at as u32, times, grown);
        }
    }

    fn replace(&mut self, old: Pair, new: Pair, place: u32, times: u64, grown: &mut Vec<Pair>) {
        if let Some(standing) = self.pairs.get_mut(&old) {
            standing.count = standing.count.saturating_sub(times);
        }
        let standing = self.pairs.entry(new).or_default();
        standing.count += times;
        standing.places.push(place);
        grown.push(new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::models::bpe::{BPE, BpeTrainer};

    fn words(text: &str) -> HashMap<String, u64> {
        let mut words = HashMap::new();
        for word in text.split_whitespace() {
            *words.entry(word.to_string()).or_default() += 1;
        }
        words
    }

    fn ours(words: &HashMap<String, u64>, vocab: u32) -> (Vec<String>, Vec<(String, String)>) {
        let mut letters: Vec<char> = words.keys().flat_map(|word| word.chars()).collect();
        letters.sort_unstable();
        letters.dedup();
        let alphabet = letters.into_iter().map(String::from).collect();
        let watch: &mut Watch<'_> = &mut |_| ControlFlow::Continue(());
        let learning = Learning::new(words.clone(), alphabet, vocab, watch).unwrap();
        let (vocab, merges) = learning.merge_all(watch).unwrap();
        let text = |id: u32| vocab[id as usize].clone();
        let merges = merges.iter().map(|(left, right)| (text(*left), text(*right))).collect();
        (vocab, merges)
    }

    fn of_the_library(words: &HashMap<String, u64>, vocab: u32) -> Vec<(String, String)> {
        let trainer = BpeTrainer::builder()
            .show_progress(false)
            .min_frequency(2)
            .vocab_size(vocab as usize)
            .build();
        let mut model = BPE::default();
        let counts = words
            .iter()
            .map(|(word, times)| (word.as_str().into(), *times))
            .collect();
        trainer.do_train(&counts, &mut model).unwrap();
        let model = serde_json::to_value(&model).unwrap();
        serde_json::from_value(model["merges"].clone()).unwrap()
    }

    #[test]
    fn merges_are_those_of_the_library() {
        let prose = "An atoll is a ring of islands; the islands together make the ring. Viele Inseln, größer: Atolle. ";
        let code = "fn main() { let mut total = 0; for item in items { total += item.total(); } } ".repeat(3);
        for text in [prose.repeat(3), code, "aaaa aaa aa aaaaaaa abababab ".repeat(5)] {
            for vocab in [30, 45, 70] {
                assert_eq!(
                    ours(&words(&text), vocab).1,
                    of_the_library(&words(&text), vocab),
                    "{vocab}: {text}"
                );
            }
        }
    }

    #[test]
    fn the_commonest_pair_first_then_the_least_until_none_is_common() {
        let (vocab, merges) = ours(&words("abab abab ab cd cd ce"), 100);
        // ab stands five times; cd and abab twice, where c < ab as tokens
        assert_eq!(vocab[5..], ["ab", "cd", "abab"]);
        assert_eq!(merges.len(), 3);
        assert_eq!(
            ours(&words("abab abab"), 3).0,
            ["a", "b", "ab"],
            "not more tokens than asked for"
        );
    }

    #[test]
    fn counts_beyond_32_bits_are_right() {
        let words = HashMap::from([("ab".to_string(), 3 << 32), ("cd".to_string(), 1 << 33)]);
        assert_eq!(ours(&words, 5).0[4], "ab");
    }
}
