//! `atoll node`.

use crate::signals;
use atoll_host::{
    folder::Folder,
    liars::Liar,
    network::Addresses,
    place::Place,
    run::{self, Manner},
};
use atoll_protocol::PeerId;
use serde_json::Value;
use std::{
    io::{Read as _, stdin},
    path::PathBuf,
    process::ExitCode,
};
use tokio::sync::watch;

/// Runs the node in a folder until Ctrl-C, which ends it in order; a second one ends it at once. Running it again goes
/// on where it was.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  atoll node my-node\n  atoll node my-node --bind 0.0.0.0:7700 --peer 6f…c2=203.0.113.7:7700\n  atoll node my-node --peer 91…0b=ada.example.org:7700\n  atoll node my-node --json | jq 'select(.event == \"round\")'"
)]
pub(crate) struct Arguments {
    /// The node's folder, with its key and charter
    dir: PathBuf,
    /// Where to listen, as ADDRESS:PORT or HOST:PORT; kept in node.toml
    #[arg(long, value_name = "PLACE")]
    bind: Option<Place>,
    /// Where another member listens, as KEY=ADDRESS:PORT or KEY=HOST:PORT; kept in node.toml. A host name is looked up
    /// again at each dial
    #[arg(long = "peer", value_name = "KEY=PLACE", value_parser = peer_address)]
    peers: Vec<(PeerId, Place)>,
    /// Print every event as a JSON object
    #[arg(long)]
    json: bool,
    /// Object to the last verdict on this node, with these words: they go on the ledger, for people to decide
    #[arg(long, value_name = "REASON")]
    appeal: Option<String>,
    /// Keep all contributions, also where the charter keeps those of some rounds only: then everything that was ever
    /// done can be audited from this folder
    #[arg(long)]
    archive: bool,
    /// Lie on purpose, to test a run: sign-flip, scale-100, copycat, …
    #[arg(long, hide = true, value_parser = crate::demo::liars::parser())]
    liar: Option<Liar>,
    /// Stop when standard input ends
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

fn peer_address(text: &str) -> Result<(PeerId, Place), String> {
    let (key, place) = text
        .split_once('=')
        .ok_or("KEY=ADDRESS:PORT or KEY=HOST:PORT is needed")?;
    let key = key.parse().map_err(|error| format!("{error}"))?;
    let place = place.parse().map_err(|error| format!("{error}"))?;
    Ok((key, place))
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let folder = Folder::at(&arguments.dir);
    folder.expect_node()?;
    let addresses = Addresses {
        bind: arguments.bind.clone(),
        peers: arguments.peers.clone(),
    };
    let json = arguments.json;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let gentle = signals::gentle()?;
    let done = runtime.block_on(async {
        let (stop, stopped) = watch::channel(false);
        if arguments.stop_with_stdin {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let _ = stdin().read_to_end(&mut Vec::new()); // its end is the sign, its content is nothing
                let _ = stop.send(true);
            });
        }
        let manner = Manner {
            liar: arguments.liar,
            appeal: arguments.appeal.clone(),
            archive: arguments.archive,
        };
        let running = run::run(folder, addresses, manner, stopped, |event| match json {
            true => say!("{event}"),
            false => tell(event),
        });
        tokio::pin!(running);
        tokio::select! {
            done = &mut running => done,
            _ = gentle.wait() => {
                let _ = stop.send(true); // it may end at this very moment
                running.await
            }
        }
    });
    runtime.shutdown_background();
    done.map(|()| ExitCode::SUCCESS)
}

fn tell(event: &Value) {
    let text = |key: &str| event[key].as_str().unwrap_or_default().to_string();
    let loss = |key: &str| event[key].as_f64().unwrap_or(f64::NAN);
    let said = match event["event"].as_str().unwrap_or_default() {
        "started" => format!(
            "{} is up at block {}, listening on {}",
            text("peer"),
            event["height"],
            event["listens"]
        ),
        "joined" | "left" | "dormant" => format!("{} {}", text("peer"), text("event")),
        "convicted" => format!("{} is suspended: {}", text("peer"), text("reason")),
        "scored" if event["harmful"] == true => format!(
            "what {} sent to round {} raises the loss by {:.2} % and is taken out",
            text("peer"),
            event["round"],
            loss("random_percent")
        ),
        "watched" if event["on"] == true => {
            format!(
                "all that {} sends is looked at, for what it did to the loss",
                text("peer")
            )
        }
        "appealed" => format!("{} objects to the verdict on it: {}", text("peer"), text("reason")),
        "acquitted" => format!(
            "{} is acquitted of what was said of its round {}",
            text("peer"),
            event["round"]
        ),
        "excluded" => format!("{} is excluded: {}", text("peer"), text("reason")),
        "round_opened" => format!(
            "round {} opened with {} peers",
            event["round"],
            event["roster"].as_array().map_or(0, Vec::len)
        ),
        "round" => format!(
            "round {} {}: train loss {:.4}, held-out before {:.4}, {} merged",
            event["round"],
            text("outcome"),
            loss("train_loss"),
            loss("held_out_before"),
            event["merged"].as_array().map_or(0, Vec::len)
        ),
        "checkpoint_recorded" => format!(
            "checkpoint of round {} recorded, held-out loss {:.4}",
            event["round"],
            loss("held_out")
        ),
        "waited" => format!("no longer waiting for {}, after {} s", text("what"), event["seconds"]),
        "backfill" => format!(
            "of what this node missed while it was away, {} blobs were fetched and {} are still to be",
            event["fetched"], event["missing"]
        ),
        "done" => "all rounds are done; Ctrl-C stops the node".into(),
        "stopped" => format!(
            "stopped; sent {} and received {} bytes",
            event["sent"], event["received"]
        ),
        // whoever makes an event with words for people is heard
        _ => match event["text"].as_str() {
            Some(text) => text.to_string(),
            None => return,
        },
    };
    say!("{said}");
}
