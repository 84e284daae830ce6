//! Namespaces joined by a bridge, their limits, and their end.
//!
//! Whoever removes them must outlive Ctrl-C and `kill -9`, and the standard library handles no signals: a
//! janitor, this program again in a process group of its own, waits until its standard input ends, which it
//! does when the test ends in any way, and then removes what bears the test's name. What even the janitor left,
//! because it was killed too, the next run removes.

use std::{
    env, fs,
    io::Read as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// Names begin with this and the test's process id.
const NAME: &str = "atoll-link-";
/// How long processes in a namespace may take to end by themselves.
const ENDING: Duration = Duration::from_secs(10);
/// The smallest bucket of a limit: two whole packets.
const BURST_MIN: u64 = 3_200;
/// How long a packet may wait at a limit before it is dropped.
const QUEUE: &str = "400ms";

/// Runs a tool; what it printed, or what it complained of.
pub(super) fn tool(program: &str, arguments: &[&str]) -> Result<String, String> {
    let shown = || format!("`{program} {}`", arguments.join(" "));
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{} could not be started: {error}", shown()))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!(
            "{} failed with {}: {}",
            shown(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}

/// Says what is missing.
pub(super) fn can_run_here() -> Result<(), String> {
    let status =
        fs::read_to_string("/proc/self/status").map_err(|error| format!("no /proc: {error}; Linux is needed"))?;
    let uid = effective_uid(&status).ok_or("/proc/self/status names no user")?;
    if uid != "0" {
        return Err(format!("namespaces need root, and this is user {uid}; try sudo"));
    }
    for (program, package) in [("ip", "iproute2"), ("tc", "iproute2"), ("kill", "procps")] {
        let flag = if program == "kill" { "-l" } else { "-V" };
        tool(program, &[flag]).map_err(|error| format!("{error}; install {package}"))?;
    }
    Ok(())
}

fn effective_uid(status: &str) -> Option<&str> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1)
}

/// The namespaces of one test.
pub(super) struct Network {
    name: String,
    nodes: usize,
    folder: PathBuf,
    janitor: Child,
}

impl Network {
    /// Makes a namespace for each node and the bridge between them, and a folder for their files.
    pub(super) fn make(nodes: usize, keep: bool) -> Result<Self, String> {
        let name = format!("{NAME}{}", std::process::id());
        let folder = env::temp_dir().join(&name);
        fs::create_dir(&folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
        let own = env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
        let janitor = Command::new(own)
            .args(["link-test", "--janitor", &name])
            .arg(if keep { Path::new("") } else { &folder })
            .stdin(Stdio::piped())
            .process_group(0) // Ctrl-C reaches only the foreground's
            .spawn()
            .map_err(|error| format!("cannot start the janitor: {error}"))?;
        let network = Self {
            name,
            nodes,
            folder,
            janitor,
        };
        network.join()?; // if it fails the janitor sees the end of its input
        Ok(network)
    }

    fn join(&self) -> Result<(), String> {
        let hub = self.hub();
        tool("ip", &["netns", "add", &hub])?;
        tool("ip", &["-n", &hub, "link", "add", "bridge", "type", "bridge"])?;
        tool("ip", &["-n", &hub, "link", "set", "bridge", "up"])?;
        for node in 0..self.nodes {
            let (namespace, port) = (self.namespace(node), port(node));
            let address = format!("10.77.0.{}/24", node + 1);
            tool("ip", &["netns", "add", &namespace])?;
            let link = [
                "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &namespace,
            ];
            tool("ip", &[&["-n", &hub][..], &link].concat())?;
            tool("ip", &["-n", &hub, "link", "set", &port, "master", "bridge", "up"])?;
            tool("ip", &["-n", &namespace, "address", "add", &address, "dev", "eth0"])?;
            tool("ip", &["-n", &namespace, "link", "set", "eth0", "up"])?;
            tool("ip", &["-n", &namespace, "link", "set", "lo", "up"])?;
        }
        Ok(())
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.name)
    }

    /// The namespace of a node.
    pub(super) fn namespace(&self, node: usize) -> String {
        format!("{}-{}", self.name, node + 1)
    }

    /// Where the nodes' files are.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// N.
    pub(super) fn nodes(&self) -> usize {
        self.nodes
    }

    /// Limits what every node sends, and what reaches it.
    pub(super) fn shape(&self, bit_s: u64) -> Result<(), String> {
        // ten milliseconds' worth, so that timers do not slow it down, and little is free after a pause
        let (rate, burst) = (format!("{bit_s}bit"), (bit_s / 800).max(BURST_MIN).to_string());
        let limit = ["root", "tbf", "rate", &rate, "burst", &burst, "latency", QUEUE];
        for node in 0..self.nodes {
            for (namespace, device) in [(self.namespace(node), "eth0".into()), (self.hub(), port(node))] {
                let place = ["-n", &namespace, "qdisc", "replace", "dev", &device];
                tool("tc", &[&place[..], &limit].concat())?;
            }
        }
        Ok(())
    }

    /// Bytes that the nodes have sent so far, headers and repeats included; a mean over the nodes.
    pub(super) fn sent(&self) -> Result<f64, String> {
        let mut sum = 0.0;
        for node in 0..self.nodes {
            let file = format!("/sys/class/net/{}/statistics/rx_bytes", port(node));
            let text = tool("ip", &["netns", "exec", &self.hub(), "cat", &file])?;
            let bytes = text.trim().parse::<f64>();
            sum += bytes.map_err(|_| format!("{file} says {:?}, not a number", text.trim()))?;
        }
        Ok(sum / self.nodes as f64)
    }

    /// Lets the janitor remove everything, and waits for it.
    pub(super) fn remove(mut self) -> Result<(), String> {
        match self.close() {
            true => Ok(()),
            false => Err(format!(
                "namespaces named {}… may be left; `ip netns del NAME` removes one",
                self.name
            )),
        }
    }

    /// Whether all is gone.
    fn close(&mut self) -> bool {
        drop(self.janitor.stdin.take());
        self.janitor.wait().is_ok_and(|status| status.success())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.close(); // after an error, which is the one to tell
    }
}

fn port(node: usize) -> String {
    format!("port{}", node + 1)
}

/// Waits for the end of the test, then removes its namespaces and its folder, if one is named.
pub(super) fn janitor(name: &str, folder: &str) -> ExitCode {
    let _ = std::io::stdin().read_to_end(&mut Vec::new()); // its end is the sign, its content is nothing
    let removed = remove(name);
    if !folder.is_empty() {
        let _ = fs::remove_dir_all(folder); // in the folder for temporary files, which others clean too
    }
    match removed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Removes namespaces of tests that are no more.
pub(super) fn sweep() {
    for name in namespaces().unwrap_or_default() {
        let Some(test) = stale(&name, |id| Path::new("/proc").join(id).exists()) else {
            continue;
        };
        eprintln!("removing {name}, left by an earlier run");
        if let Err(error) = remove(test) {
            eprintln!("{error}");
        }
    }
}

/// The name of the test that a namespace belongs to, if that test is no more.
fn stale(namespace: &str, lives: impl Fn(&str) -> bool) -> Option<&str> {
    let id = namespace.strip_prefix(NAME)?.split('-').next()?;
    let ours = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
    (ours && !lives(id)).then(|| &namespace[..NAME.len() + id.len()])
}

fn namespaces() -> Result<Vec<String>, String> {
    let listed = tool("ip", &["netns", "list"])?;
    let first = |line: &str| line.split_whitespace().next().map(String::from);
    Ok(listed.lines().filter_map(first).collect())
}

/// Ends what runs in the namespaces of a test, and removes them.
fn remove(test: &str) -> Result<(), String> {
    let start = format!("{test}-");
    let names: Vec<String> = namespaces()?
        .into_iter()
        .filter(|name| name.starts_with(&start))
        .collect();
    let deadline = Instant::now() + ENDING;
    let mut left = Ok(());
    for name in names {
        let running = || tool("ip", &["netns", "pids", &name]).unwrap_or_default();
        while !running().trim().is_empty() && Instant::now() < deadline {
            sleep(Duration::from_millis(100));
        }
        for id in running().split_whitespace() {
            let _ = tool("kill", &["-9", id]); // it may have ended in between
        }
        left = left.and(tool("ip", &["netns", "del", &name]).map(drop));
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dead_tests_are_stale() {
        let lives = |id: &str| id == "12";
        assert_eq!(stale("atoll-link-13-hub", lives), Some("atoll-link-13"));
        for other in [
            "atoll-link-12-hub",
            "atoll-link-",
            "atoll-link-x-1",
            "other",
            "my-atoll-link-13-1",
        ] {
            assert_eq!(stale(other, lives), None, "{other}");
        }
    }

    #[test]
    fn whose_process_it_is() {
        let status = "Name:\tx\nUid:\t1000\t0\t0\t0\nGid:\t1\t1\t1\t1\n";
        assert_eq!(effective_uid(status), Some("0"));
        assert_eq!(effective_uid("Name:\tx\n"), None);
    }
}
