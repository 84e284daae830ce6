//! What the node waits for: named, from whom, since when, and what a person can do about it.
//!
//! Whoever waits says so at once and stops saying so when it is over. What has lasted for three seconds is told in
//! the node's events and stands in its status.

use atoll_protocol::Millis;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A wait that is over sooner is not worth a word.
pub const TOLD_AFTER: Millis = Millis(3_000);

/// Something that is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// What, in a few words: "the corpus".
    pub what: String,
    /// From whom, for people.
    pub from: Vec<String>,
    /// What was heard last, if anything was.
    pub heard: Option<String>,
    /// What a person can do.
    pub remedy: String,
}

#[derive(Debug)]
struct Open {
    wait: Wait,
    since: Millis,
    told: bool,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    open: BTreeMap<u64, Open>,
    /// Waits that hold or do not hold at each look, by their name.
    looked: BTreeMap<&'static str, u64>,
    /// Told waits that are over: what, and since when.
    over: Vec<(String, Millis)>,
}

/// Everything that one node waits for. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Waits(Arc<Mutex<Inner>>);

/// Ends its wait when it is dropped.
#[derive(Debug)]
pub struct Waiting {
    waits: Waits,
    number: u64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.waits.inner().end(self.number);
    }
}

impl Waiting {
    /// Notes what was heard last.
    pub fn heard(&self, words: impl ToString) {
        if let Some(open) = self.waits.inner().open.get_mut(&self.number) {
            open.wait.heard = Some(words.to_string());
        }
    }
}

impl Inner {
    fn begin(&mut self, wait: Wait, since: Millis) -> u64 {
        self.next += 1;
        let told = false;
        self.open.insert(self.next, Open { wait, since, told });
        self.next
    }

    fn end(&mut self, number: u64) {
        if let Some(open) = self.open.remove(&number).filter(|open| open.told) {
            self.over.push((open.wait.what, open.since));
        }
    }
}

impl Waits {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to wait; dropping what is returned ends it.
    pub fn begin(&self, now: Millis, wait: Wait) -> Waiting {
        Waiting {
            number: self.inner().begin(wait, now),
            waits: self.clone(),
        }
    }

    /// Says whether the wait called `name` holds now, seen at `since` for the first time. It goes on for as long as it
    /// is of the same thing, whoever it is from.
    pub fn look(&self, name: &'static str, since: Millis, wait: Option<Wait>) {
        let mut inner = self.inner();
        let before = inner.looked.get(name).copied();
        let Some(wait) = wait else {
            inner.looked.remove(name);
            return before.into_iter().for_each(|number| inner.end(number));
        };
        match before.and_then(|number| inner.open.get_mut(&number)) {
            Some(open) if open.wait.what == wait.what => open.wait = wait,
            _ => {
                before.into_iter().for_each(|number| inner.end(number));
                let number = inner.begin(wait, since);
                inner.looked.insert(name, number);
            }
        }
    }

    /// The events that are due: waits that have lasted for three seconds, each once, and told ones that are over.
    pub fn events(&self, now: Millis) -> Vec<Value> {
        let mut inner = self.inner();
        let over = std::mem::take(&mut inner.over);
        let over = over.into_iter().map(|(what, since)| {
            let seconds = seconds(since, now);
            json!({ "event": "waited", "what": what, "seconds": seconds })
        });
        let mut events: Vec<Value> = over.collect();
        for open in inner.open.values_mut().filter(|open| !open.told && open.is_due(now)) {
            open.told = true;
            let mut event = open.to_json(now);
            event["event"] = json!("waiting");
            events.push(event);
        }
        events
    }

    /// What has lasted for three seconds, the oldest first, for the status.
    pub fn to_json(&self, now: Millis) -> Vec<Value> {
        let inner = self.inner();
        let mut due: Vec<&Open> = inner.open.values().filter(|open| open.is_due(now)).collect();
        due.sort_by_key(|open| open.since);
        due.into_iter().map(|open| open.to_json(now)).collect()
    }
}

fn seconds(since: Millis, now: Millis) -> u64 {
    now.0.saturating_sub(since.0) / 1000
}

impl Open {
    fn is_due(&self, now: Millis) -> bool {
        now >= self.since.after(TOLD_AFTER)
    }

    fn to_json(&self, now: Millis) -> Value {
        let Wait {
            what,
            from,
            heard,
            remedy,
        } = &self.wait;
        json!({
            "what": what,
            "from": from,
            "heard": heard,
            "since_ms": self.since.0,
            "seconds": seconds(self.since, now),
            "remedy": remedy,
            "text": self.wait.text(seconds(self.since, now)),
        })
    }
}

/// How many names a sentence holds.
const NAMES_MAX: usize = 5;

impl Wait {
    fn text(&self, seconds: u64) -> String {
        let Self {
            what,
            from,
            heard,
            remedy,
        } = self;
        let mut text = format!("waiting for {what} since {seconds} s");
        if let Some((last, rest)) = from.split_last() {
            let shown = match rest {
                [] => last.clone(),
                _ if from.len() > NAMES_MAX => {
                    format!("{} and {} others", from[..NAMES_MAX].join(", "), from.len() - NAMES_MAX)
                }
                _ => format!("{} and {last}", rest.join(", ")),
            };
            text.push_str(&format!(", from {shown}"));
        }
        if let Some(heard) = heard {
            text.push_str(&format!("; heard last: {heard}"));
        }
        if !remedy.is_empty() {
            text.push_str(&format!(". {remedy}"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(what: &str, from: &[&str]) -> Wait {
        Wait {
            what: what.into(),
            from: from.iter().map(ToString::to_string).collect(),
            heard: None,
            remedy: "Do something.".into(),
        }
    }

    fn texts(events: &[Value]) -> Vec<&str> {
        events.iter().filter_map(|event| event["text"].as_str()).collect()
    }

    #[test]
    fn a_wait_is_told_once_after_three_seconds_and_its_end_too() {
        let waits = Waits::default();
        let waiting = waits.begin(Millis(1000), wait("the corpus", &["a", "b"]));
        assert_eq!(waits.events(Millis(3999)), Vec::<Value>::new());
        waiting.heard("no answer");
        let told = waits.events(Millis(4000));
        let text = "waiting for the corpus since 3 s, from a and b; heard last: no answer. Do something.";
        assert_eq!(texts(&told), [text]);
        assert_eq!(
            (&told[0]["event"], &told[0]["since_ms"]),
            (&json!("waiting"), &json!(1000))
        );
        assert_eq!(waits.events(Millis(9000)), Vec::<Value>::new(), "once");
        assert_eq!(waits.to_json(Millis(61_000))[0]["seconds"], 60);
        drop(waiting);
        assert_eq!(
            waits.events(Millis(61_000)),
            [json!({ "event": "waited", "what": "the corpus", "seconds": 60 })]
        );
        assert!(waits.to_json(Millis(99_000)).is_empty());
    }

    #[test]
    fn a_short_wait_is_not_told() {
        let waits = Waits::default();
        drop(waits.begin(Millis(0), wait("a blob", &[])));
        assert_eq!(waits.events(Millis(10_000)), Vec::<Value>::new());
    }

    #[test]
    fn what_is_looked_at_goes_on_while_it_is_the_same() {
        let waits = Waits::default();
        waits.look("quorum", Millis(0), Some(wait("a quorum", &["a", "b"])));
        waits.look("quorum", Millis(2000), Some(wait("a quorum", &["b"])));
        assert_eq!(
            texts(&waits.events(Millis(3000))),
            ["waiting for a quorum since 3 s, from b. Do something."]
        );
        waits.look("quorum", Millis(4000), Some(wait("something else", &[])));
        assert_eq!(waits.events(Millis(5000))[0]["what"], "a quorum");
        waits.look("quorum", Millis(5000), None);
        assert_eq!(
            waits.events(Millis(9000)),
            Vec::<Value>::new(),
            "over before it was told"
        );
    }

    #[test]
    fn many_names_are_counted() {
        let names = ["a", "b", "c", "d", "e", "f", "g"];
        let text = wait("roots", &names).text(4);
        assert_eq!(
            text,
            "waiting for roots since 4 s, from a, b, c, d, e and 2 others. Do something."
        );
    }
}
