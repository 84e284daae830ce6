//! What the tests of the program share: running it, listening to it, and ending it whatever happens.

#![allow(dead_code)] // each test file uses its part

use atoll_protocol::Hash;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    time::{Duration, Instant},
};

/// No test waits longer than this for anything; what was seen until then is in the failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_atoll");

/// An empty folder of its own for a test, which stays after a failure to be looked at.
pub(crate) fn fresh(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if path.exists() {
        fs::remove_dir_all(&path).unwrap();
    }
    fs::create_dir_all(&path).unwrap();
    path
}

pub(crate) fn text(path: &Path) -> String {
    path.to_str().unwrap().to_string()
}

/// Runs the program to its end.
pub(crate) fn atoll(arguments: &[&str]) -> Output {
    Command::new(PROGRAM)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The JSON object in the last line of what the program printed.
pub(crate) fn last_json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().unwrap_or_default();
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {text}\n{}", stderr(output)))
}

/// Runs the program; it must end well.
pub(crate) fn well(arguments: &[&str]) -> Output {
    let output = atoll(arguments);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{arguments:?} ended with {}\n{said}\n{}",
        output.status,
        stderr(&output)
    );
    output
}

/// The program must end with status 1 and one line that says why. Gives the line.
pub(crate) fn refused(arguments: &[&str]) -> String {
    let output = atoll(arguments);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
    assert!(
        said.starts_with("atoll: ") && said.trim_end().lines().count() == 1,
        "{arguments:?}: {said}"
    );
    said
}

/// One finished demo for all tests that only read it: its folder, and what it printed at the end.
pub(crate) fn demo() -> &'static (PathBuf, Value) {
    static DEMO: OnceLock<(PathBuf, Value)> = OnceLock::new();
    DEMO.get_or_init(|| {
        let dir = fresh(concat!(env!("CARGO_CRATE_NAME"), "-finished")).join("D");
        let arguments = [
            "demo",
            "--peers",
            "4",
            "--rounds",
            "2",
            "--inner-steps",
            "3",
            "--dir",
            &text(&dir),
            "--json",
        ];
        let output = well(&arguments);
        assert_eq!(stderr(&output), "", "nothing to complain of");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout).lines().count(),
            1,
            "only one JSON object"
        );
        let result = last_json(&output);
        (dir, result)
    })
}

/// Every file below `root` by its path there, but the lock, which each start makes.
pub(crate) fn files(root: &Path) -> Vec<String> {
    let (mut found, mut folders) = (Vec::new(), vec![root.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.file_name().unwrap() == "lock" => {}
                false => found.push(text(path.strip_prefix(root).unwrap())),
            }
        }
    }
    found.sort();
    found
}

/// Hashes of every file below `root`.
pub(crate) fn tree(root: &Path) -> BTreeMap<String, Hash> {
    let hash = |path: &String| Hash::of_blob(&fs::read(root.join(path)).unwrap());
    files(root)
        .into_iter()
        .map(|path| (path.clone(), hash(&path)))
        .collect()
}

/// Copies a folder with its permissions.
pub(crate) fn copy(from: &Path, to: &Path) {
    for path in files(from) {
        let target = to.join(&path);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(from.join(&path), target).unwrap();
    }
}

/// Waits until `ready` gives something; fails with what `seen` tells.
pub(crate) fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>, seen: impl Fn() -> String) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(began.elapsed() < PATIENCE, "{what} did not come; seen: {}", seen());
        std::thread::sleep(Duration::from_millis(20)); // between two looks, not a hope
    }
}

/// The events that a node has written to its log.
pub(crate) fn events(folder: &Path) -> Vec<Value> {
    let log = fs::read_to_string(folder.join("events.jsonl")).unwrap_or_default();
    log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The running children of a process.
#[cfg(target_os = "linux")]
pub(crate) fn children_of(process: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{process}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_whitespace()
                .map(|id| id.parse().unwrap())
                .collect::<Vec<u32>>()
        })
        .collect()
}

/// Sends a signal to a process that this test started.
pub(crate) fn signal(name: &str, process: u32) {
    let sent = Command::new("kill")
        .args([name, &process.to_string()])
        .status()
        .unwrap();
    assert!(sent.success(), "kill {name} {process}");
}

/// A program under way, which does not outlive the test.
pub(crate) struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Value>,
    seen: Vec<Value>,
    errors: PathBuf,
}

/// Several nodes keep a small machine busy: one run of them at a time in each of the test programs.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The folder of a demo's node, from 1.
pub(crate) fn node(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("node-{number}"))
}

impl Running {
    /// Starts the program; its stderr goes to the file `errors`, beside the folder that it works on.
    pub(crate) fn start(arguments: &[&str], errors: &Path) -> Self {
        let log = File::options().create(true).append(true).open(errors).unwrap();
        let mut child = Command::new(PROGRAM)
            .args(arguments)
            .env("RAYON_NUM_THREADS", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let (out, (send, lines)) = (child.stdout.take().unwrap(), channel());
        std::thread::spawn(move || {
            let events = BufReader::new(out).lines().map_while(Result::ok);
            events
                .filter_map(|line| serde_json::from_str(&line).ok())
                .try_for_each(|event| send.send(event))
        });
        Self {
            stdin: child.stdin.take(),
            child,
            lines,
            seen: Vec::new(),
            errors: errors.to_path_buf(),
        }
    }

    /// Starts the node in `folder`.
    pub(crate) fn node(folder: &Path) -> Self {
        Self::start(
            &["node", &text(folder), "--json", "--stop-with-stdin"],
            &folder.with_extension("stderr"),
        )
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Every event until now.
    pub(crate) fn seen(&self) -> &[Value] {
        &self.seen
    }

    pub(crate) fn errors(&self) -> String {
        fs::read_to_string(&self.errors).unwrap_or_default()
    }

    /// What to tell when a wait was in vain.
    fn told(&self) -> String {
        let quiet = ["traffic", "step"].map(Value::from);
        let last: Vec<_> = self
            .seen
            .iter()
            .filter(|event| !quiet.contains(&event["event"]))
            .rev()
            .take(12)
            .collect();
        format!("{last:?}\nstderr: {}", self.errors())
    }

    /// The first event, seen or to come, for which `fits` is true.
    pub(crate) fn wait_for(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        if let Some(event) = self.seen.iter().find(|event| fits(event)) {
            return event.clone();
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(event) => {
                    self.seen.push(event.clone());
                    if fits(&event) {
                        return event;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("{what} did not come; seen: {}", self.told()),
                Err(RecvTimeoutError::Disconnected) => panic!("the program ended before {what}; seen: {}", self.told()),
            }
        }
    }

    /// Takes in what has been said until now.
    fn hear(&mut self) {
        self.seen.extend(self.lines.try_iter());
    }

    /// The first event until now for which `fits` is true.
    pub(crate) fn has(&mut self, fits: impl Fn(&Value) -> bool) -> Option<Value> {
        self.hear();
        self.seen.iter().find(|event| fits(event)).cloned()
    }

    /// Waits until `fits` is true of all events after the first `before`.
    pub(crate) fn wait_new(&mut self, what: &str, before: usize, fits: impl Fn(&[Value]) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !fits(&self.seen[before..]) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(event) => self.seen.push(event),
                Err(_) => panic!("{what} did not come; seen: {}", self.told()),
            }
        }
    }

    /// Listens until what was seen is `enough`, or the program ends: whether it did.
    pub(crate) fn follow(&mut self, enough: impl Fn(&[Value]) -> bool) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while !enough(&self.seen) {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(event) => self.seen.push(event),
                Err(RecvTimeoutError::Disconnected) => return true,
                Err(RecvTimeoutError::Timeout) => panic!("nothing more came; seen: {}", self.told()),
            }
        }
        false
    }

    /// Waits for the end of the program.
    pub(crate) fn ended(mut self) -> (ExitStatus, Vec<Value>, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(event) => self.seen.push(event),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("the program does not end; seen: {}", self.told()),
            }
        }
        let status = self.child.wait().unwrap();
        (status, std::mem::take(&mut self.seen), self.errors())
    }

    /// Closes its stdin, which asks a node to end, and waits for it.
    pub(crate) fn stop(mut self) -> (ExitStatus, Vec<Value>, String) {
        self.stdin = None;
        self.ended()
    }

    /// Kills it at once: nothing is written any more.
    pub(crate) fn kill(mut self) -> Vec<Value> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        while let Ok(event) = self.lines.recv_timeout(PATIENCE) {
            self.seen.push(event);
        }
        std::mem::take(&mut self.seen)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it has ended, or ends now
        let _ = self.child.wait();
    }
}
