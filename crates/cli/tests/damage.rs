//! One flipped byte anywhere in a node's folder is found by the audit, which names the file; without the
//! seal, what the run is made of is still checked by its meaning.

mod support;

use atoll_host::{
    audit::{Report, audit},
    record,
};
use atoll_protocol::{Hash, encode};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};
use support::{copy, demo, files, fresh, last_json, text};

/// First, middle and last byte, and two that a hash of the path picks.
fn places(path: &str, bytes: usize) -> Vec<usize> {
    let picked = Hash::of_blob(path.as_bytes()).0;
    let pick = |at: usize| u64::from_le_bytes(picked[at..at + 8].try_into().unwrap()) as usize % bytes;
    let mut places = vec![0, bytes / 2, bytes - 1, pick(0), pick(8)];
    places.sort_unstable();
    places.dedup();
    places
}

/// Audits `folder` with one bit of one byte of a file flipped, then puts the byte back.
fn flipped(folder: &Path, file: &Path, offsets: &[usize]) -> Report {
    let good = fs::read(file).unwrap();
    let mut bad = good.clone();
    offsets.iter().for_each(|offset| bad[*offset] ^= 0x10);
    fs::write(file, &bad).unwrap();
    let report = audit(folder, |_| ());
    fs::write(file, &good).unwrap();
    report
}

fn names(report: &Report, what: &str) -> bool {
    report.all_problems().any(|found| found.place.contains(what))
}

/// A copy of node 1's folder, which the audit finds whole.
fn node_copy(name: &str, sealed: bool) -> PathBuf {
    let folder = fresh(&format!("damage-{name}")).join("node-1");
    copy(&demo().0.join("node-1"), &folder);
    if !sealed {
        fs::remove_file(folder.join("seal")).unwrap();
    }
    let report = audit(&folder, |_| ());
    assert!(report.ok() && report.folders[0].sealed == sealed, "{report:?}");
    folder
}

/// Flips bytes in each of `chosen`, with a worker and a copy of the folder per core. Every flip must be
/// found with the name of its file.
fn every_flip_is_found(name: &str, sealed: bool, chosen: impl Fn(&str) -> bool) -> usize {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let original = node_copy(&format!("{name}-0"), sealed);
    let paths: Vec<String> = files(&original).into_iter().filter(|path| chosen(path)).collect();
    let (next, flips) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for worker in 0..workers {
            let folder = if worker == 0 {
                original.clone()
            } else {
                node_copy(&format!("{name}-{worker}"), sealed)
            };
            let (next, flips, paths) = (&next, &flips, &paths);
            scope.spawn(move || {
                while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let file = folder.join(path);
                    let bytes = fs::metadata(&file).unwrap().len() as usize;
                    for place in if bytes == 0 { vec![] } else { places(path, bytes) } {
                        let report = flipped(&folder, &file, &[place]);
                        let found = !report.ok() && names(&report, &text(&file));
                        assert!(
                            found,
                            "byte {place} of {bytes} in {path}: {:?}",
                            report.all_problems().collect::<Vec<_>>()
                        );
                        flips.fetch_add(1, Ordering::Relaxed);
                    }
                }
                assert!(audit(&folder, |_| ()).ok(), "whole again");
            });
        }
    });
    flips.into_inner()
}

#[test]
fn one_flipped_byte_in_any_file_of_a_sealed_folder_is_found_and_named() {
    let flips = every_flip_is_found("sealed", true, |_| true);
    println!("{flips} flips found");
    assert!(flips > 200, "{flips}");
}

#[test]
fn without_a_seal_flips_in_blobs_and_checkpoints_are_found_by_what_they_mean() {
    let flips = every_flip_is_found("unsealed", false, |path| {
        path.starts_with("checkpoints/") || path.starts_with("blobs/data/") && path.ends_with(".data")
    });
    println!("{flips} flips found");
    assert!(flips > 60, "{flips}");
}

/// Where `needle` is in `hay`: copy-on-write leaves older copies of a page, so more than once.
fn all_of(hay: &[u8], needle: &[u8]) -> Vec<usize> {
    (0..=hay.len().saturating_sub(needle.len()))
        .filter(|at| hay[*at..].starts_with(needle))
        .collect()
}

#[test]
fn without_a_seal_a_flip_in_a_block_or_its_certificate_is_found_and_the_block_named() {
    let folder = node_copy("blocks", false);
    let ledger = folder.join("ledger.redb");
    let content = fs::read(&ledger).unwrap();
    let mut blocks = Vec::new();
    record::read(&ledger, |stored| {
        blocks.push(stored);
        Ok(())
    })
    .unwrap();
    let mut signatures = 0;
    for stored in &blocks {
        let (block, height) = (&stored.block, stored.block.header.height);
        let mut targets = vec![("header", encode(&block.header), 5)];
        for transaction in &block.transactions {
            targets.push(("signature", transaction.signature.0.to_vec(), 40));
            targets.push(("body", encode(transaction), 33));
            signatures += 1;
        }
        if let Some(certificate) = &stored.certificate {
            targets.push(("certificate", certificate.clone(), certificate.len() / 2));
        }
        for (what, needle, offset) in targets {
            let found: Vec<usize> = all_of(&content, &needle).iter().map(|at| at + offset).collect();
            assert!(
                !found.is_empty(),
                "block {height}: its {what} is not in the file as it was read"
            );
            let report = flipped(&folder, &ledger, &found);
            let place = format!("block {height}");
            let named = |text: &str| {
                text.match_indices(&place)
                    .any(|(at, _)| !text[at + place.len()..].starts_with(char::is_numeric))
            };
            let told = report
                .all_problems()
                .any(|p| p.place.contains(&text(&ledger)) && named(&format!("{} {}", p.place, p.what)));
            assert!(
                told,
                "{what} of {place}: {:?}",
                report.all_problems().collect::<Vec<_>>()
            );
        }
    }
    println!("{} blocks, {signatures} signatures", blocks.len());
    assert!(blocks.len() > 5 && signatures > 20);
}

#[test]
fn without_a_seal_a_flip_anywhere_in_the_ledgers_file_never_stops_the_audit() {
    let folder = node_copy("pages", false);
    let ledger = folder.join("ledger.redb");
    let bytes = fs::metadata(&ledger).unwrap().len() as usize;
    let theta = audit(&folder, |_| ()).folders[0].theta;
    let spread = (0..48).map(|part| part * bytes / 48 + part);
    let (mut found, mut unused) = (0, 0);
    for place in (0..16).chain(spread) {
        let report = flipped(&folder, &ledger, &[place]);
        match report.ok() {
            // an unused part of a page: what is read is the same
            true => assert_eq!(report.folders[0].theta, theta, "byte {place}"),
            false => assert!(names(&report, &text(&folder)), "byte {place}"),
        }
        if report.ok() { unused += 1 } else { found += 1 }
    }
    println!("{found} found, {unused} in unused parts");
    assert!(found > 0);
}

#[test]
fn the_program_names_the_damaged_file_and_ends_with_status_1() {
    let folder = node_copy("program", true);
    let of_kind = |fits: &dyn Fn(&str) -> bool| files(&folder).into_iter().find(|path| fits(path)).unwrap();
    let kinds = [
        of_kind(&|path| path == "ledger.redb"),
        of_kind(&|path| path.ends_with(".data")),
        of_kind(&|path| path.ends_with(".obao4")),
        of_kind(&|path| path.ends_with(".safetensors")),
        of_kind(&|path| path == "key"),
        of_kind(&|path| path == "charter.toml"),
        of_kind(&|path| path == "events.jsonl"),
        of_kind(&|path| path == "trainer.bin"),
        of_kind(&|path| path == "blobs/blobs.db"),
        of_kind(&|path| path == "seal"),
    ];
    for path in kinds {
        let file = folder.join(&path);
        let good = fs::read(&file).unwrap();
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 1;
        fs::write(&file, bad).unwrap();
        let output = support::atoll(&["audit", &text(&folder), "--json"]);
        fs::write(&file, good).unwrap();
        assert_eq!(output.status.code(), Some(1), "{path}");
        let report = last_json(&output);
        assert_eq!(report["ok"], false);
        let problems = report["problems"].as_array().unwrap();
        assert!(
            problems
                .iter()
                .any(|found| found["place"].as_str().unwrap().contains(&path)),
            "{path}: {problems:?}"
        );
    }
    support::well(&["audit", &text(&folder)]);
}

#[test]
fn what_a_node_had_and_has_not_any_more_is_a_fault_whatever_others_have() {
    let both = fresh("damage-gaps");
    for number in [1, 2] {
        let name = format!("node-{number}");
        copy(&demo().0.join(&name), &both.join(&name));
        fs::remove_file(both.join(&name).join("seal")).unwrap();
    }
    let one = both.join("node-1");
    // a quorum may have closed a round before this node had merged it
    let merged = audit(&one, |_| ()).folders[0].merged.first().copied().unwrap();
    let lacks = |report: &Report| {
        report
            .all_problems()
            .any(|found| found.place.contains(&format!("round {merged}")) && found.what.contains("the contribution of"))
    };
    let paths: Vec<String> = files(&one).into_iter().filter(|path| path.ends_with(".data")).collect();
    let without = |path: &str| {
        let good = fs::read(one.join(path)).unwrap();
        fs::remove_file(one.join(path)).unwrap();
        let report = audit(&one, |_| ());
        fs::write(one.join(path), good).unwrap();
        report
    };
    let path = paths.iter().find(|path| lacks(&without(path))).unwrap();

    fs::remove_file(one.join(path)).unwrap();
    let report = audit(&both, |_| ());
    assert!(!report.ok() && lacks(&report), "{report:?}");
    assert_eq!(
        report.folders[0].gaps.len(),
        1,
        "round 1 goes on from the θ that is here"
    );
    assert!(report.folders[1].gaps.is_empty() && report.folders[1].problems.is_empty());
}
