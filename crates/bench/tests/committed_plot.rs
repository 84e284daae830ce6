//! The README's picture is what its committed results draw. To draw it again without training:
//! `ATOLL_REDRAW=1 cargo test --release -p atoll-bench --test committed_plot`.

use atoll_bench::convergence::{Book, Preset, RunResult, Spec, plot, table};
use atoll_protocol::Hash;
use std::{error::Error, fs, path::Path};

#[test]
fn the_committed_picture_is_what_the_committed_results_draw() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/results/convergence");
    let drawn = draw(&folder.join("results.jsonl"))?;
    let picture = folder.join("plot.svg");
    if std::env::var_os("ATOLL_REDRAW").is_some() {
        fs::write(&picture, &drawn)?;
    }
    assert!(
        fs::read_to_string(&picture)? == drawn,
        "docs/results/convergence/plot.svg is not what results.jsonl draws: ATOLL_REDRAW=1 writes it anew"
    );
    Ok(())
}

/// The picture of a results file. Its lines are keyed by a corpus that need not be here, so they are put into a
/// book of no corpus first.
fn draw(results: &Path) -> Result<String, Box<dyn Error>> {
    let path = std::env::temp_dir().join(format!("atoll-committed-plot-{}", std::process::id()));
    let book = Book::open(&path, Hash::ZERO, 0)?;
    for line in fs::read_to_string(results)?.lines() {
        let mut entry: serde_json::Value = serde_json::from_str(line)?;
        let spec: Spec = serde_json::from_value(entry["spec"].take())?;
        let result: RunResult = serde_json::from_value(entry["result"].take())?;
        book.put(&spec, result)?;
    }
    fs::remove_file(&path)?;
    let rows = table::rows(&Preset::Table.campaign(), &book);
    assert!(rows.len() > 20, "only {} arms are in {}", rows.len(), results.display());
    Ok(plot::svg(&rows, &Preset::Table.main_column()))
}
