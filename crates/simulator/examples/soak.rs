//! Fresh seeds over all scenarios on all cores until the time is over; stops at the first violation and says
//! how to see it again. `cargo xtask soak` starts it.
//!
//! `soak --minutes M [--seed FIRST] [--skip-restore] [NAME …]`

use atoll_simulator::{Failure, Planted, Scenario, run_planted};
use std::{
    env,
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

struct Soak {
    /// None is the scenario of chance.
    scenarios: Vec<Option<Scenario>>,
    planted: Planted,
    first: u64,
    ends: Instant,
    next: AtomicU64,
    stop: AtomicBool,
    failure: Mutex<Option<String>>,
    /// Runs, rounds and virtual seconds, by scenario.
    done: Mutex<Vec<(u64, u64, f64)>>,
}

fn name_of(scenario: Option<&Scenario>) -> &str {
    scenario.map_or("wild", |scenario| &scenario.name)
}

impl Soak {
    fn work(&self) {
        while Instant::now() < self.ends && !self.stop.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let (place, seed) = (self.place(number), self.first + number);
            let scenario = self.scenarios[place].clone().unwrap_or_else(|| Scenario::wild(seed));
            let report = run_planted(&scenario, seed, self.planted);
            let mut done = self.done.lock().unwrap();
            done[place].0 += 1;
            done[place].1 += report.records.len() as u64;
            done[place].2 += report.virtual_time.seconds();
            drop(done);
            if !report.violations.is_empty() && !self.stop.swap(true, Ordering::Relaxed) {
                let failure = Failure::of(&report, self.planted);
                let text = failure.map(|failure| failure.text(&scenario.name)).unwrap_or_default();
                *self.failure.lock().unwrap() = Some(text);
            }
        }
    }

    /// By turns, chance every other time; large networks take a thousand times as long, and their turn comes
    /// rarely.
    fn place(&self, number: u64) -> usize {
        let of_size = |large: bool| {
            let size = move |scenario: &Option<Scenario>| scenario.as_ref().is_some_and(|scenario| scenario.nodes > 64);
            let places = (0..self.scenarios.len()).filter(move |at| size(&self.scenarios[*at]) == large);
            places.collect::<Vec<usize>>()
        };
        let (small, large) = (of_size(false), of_size(true));
        let chance = self.scenarios.iter().position(Option::is_none);
        match (chance, small.is_empty(), large.is_empty()) {
            (_, true, _) => large[number as usize % large.len()],
            (_, _, false) if number % 2_000 == 1_000 => large[(number / 2_000) as usize % large.len()],
            (Some(chance), ..) if number % 2 == 1 => chance,
            _ => small[number as usize / 2 % small.len()],
        }
    }

    fn table(&self) {
        let done = self.done.lock().unwrap();
        for (scenario, (runs, rounds, seconds)) in self.scenarios.iter().zip(done.iter()) {
            let name = name_of(scenario.as_ref());
            println!(
                "  {name:<15} {runs:>7} runs {rounds:>9} rounds {:>11.1} virtual hours",
                seconds / 3600.0
            );
        }
    }
}

fn main() -> ExitCode {
    let (mut minutes, mut first, mut planted, mut names) = (1.0, None, Planted::default(), Vec::new());
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--minutes" => minutes = arguments.next().and_then(|value| value.parse().ok()).unwrap_or(1.0),
            "--seed" => first = arguments.next().and_then(|value| value.parse().ok()),
            "--skip-restore" => planted.skip_restore = true,
            _ => names.push(argument),
        }
    }
    let first = first.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_secs()) << 20);
    let wanted = |name: &&str| names.is_empty() || names.iter().any(|wanted| wanted == name);
    let read = |name: &str| Scenario::from_toml(Scenario::built_in(name).unwrap()).unwrap();
    let mut scenarios: Vec<Option<Scenario>> = Scenario::names().filter(wanted).map(|name| Some(read(name))).collect();
    if wanted(&"wild") {
        scenarios.push(None);
    }
    if scenarios.is_empty() {
        eprintln!(
            "no scenario of these names: {names:?}; there are: {}",
            Scenario::names().collect::<Vec<_>>().join(", ")
        );
        return ExitCode::FAILURE;
    }
    let began = Instant::now();
    let soak = Soak {
        done: Mutex::new(vec![(0, 0, 0.0); scenarios.len()]),
        scenarios,
        planted,
        first,
        ends: began + Duration::from_secs_f64(minutes * 60.0),
        next: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        failure: Mutex::new(None),
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    println!("soak: {minutes} minutes on {threads} threads, seeds from {first}");
    thread::scope(|scope| {
        (0..threads).for_each(|_| drop(scope.spawn(|| soak.work())));
        scope.spawn(|| {
            let mut said = Instant::now();
            while Instant::now() < soak.ends && !soak.stop.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(200));
                if said.elapsed() > Duration::from_secs(60) {
                    said = Instant::now();
                    println!(
                        "{:.0} s, {} runs",
                        began.elapsed().as_secs_f64(),
                        soak.next.load(Ordering::Relaxed)
                    );
                }
            }
        });
    });
    soak.table();
    match soak.failure.into_inner().unwrap() {
        None => {
            println!("clean after {:.0} s", began.elapsed().as_secs_f64());
            ExitCode::SUCCESS
        }
        Some(text) => {
            println!("after {:.0} s:\n{text}", began.elapsed().as_secs_f64());
            ExitCode::FAILURE
        }
    }
}
