//! What a seal finds, what it leaves alone, and that no file can stop it.

use super::*;
use std::os::unix::fs::symlink;

fn seal(folder: &Folder) -> Written {
    write(folder, &mut |_, _| ControlFlow::Continue(())).unwrap()
}

fn compared(folder: &Folder) -> Vec<Difference> {
    let contents = scan(folder.path()).unwrap();
    let seal = read(folder).unwrap().unwrap();
    assert!(seal.signed && !seal.export);
    seal.differences(folder.path(), &contents)
}

/// A sealed folder with a blob in it, and the blob's path.
fn sealed(data: &[u8]) -> (tempfile::TempDir, Folder, PathBuf) {
    let temporary = tempfile::tempdir().unwrap();
    let folder = Folder::at(temporary.path());
    identity::create(&folder.key()).unwrap();
    let path = folder.blob(&Hash::of_blob(data));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, data).unwrap();
    assert_eq!(read(&folder).unwrap(), None);
    assert_eq!(
        seal(&folder),
        Written {
            sealed: true,
            left_out: vec![]
        }
    );
    (temporary, folder, path)
}

#[test]
fn any_changed_byte_is_found_and_placed() {
    let data: Vec<u8> = (0..10_000u32).map(|i| i as u8).collect();
    let (_temporary, folder, path) = sealed(&data);
    assert_eq!(compared(&folder), []);
    for (place, range) in [
        (0, "byte 0 and byte 4095"),
        (5000, "byte 4096 and byte 8191"),
        (9999, "byte 8192 and byte 9999"),
    ] {
        let mut bad = data.clone();
        bad[place] ^= 1;
        fs::write(&path, &bad).unwrap();
        let found = compared(&folder);
        assert!(
            found.len() == 1 && found[0].path == path && found[0].what.contains(range),
            "{found:?}"
        );
    }
    fs::write(&path, &data[1..]).unwrap();
    assert!(compared(&folder)[0].what.contains("9999 bytes"));
    fs::remove_file(&path).unwrap();
    assert!(compared(&folder)[0].what.contains("missing"));
    fs::write(&path, &data).unwrap();
    let good = fs::read(folder.seal()).unwrap();
    for place in 0..good.len() {
        let mut bad = good.clone();
        bad[place] ^= 4;
        fs::write(folder.seal(), &bad).unwrap();
        assert!(read(&folder).is_err(), "byte {place} of the seal");
    }
}

#[test]
fn what_is_not_the_nodes_is_neither_sealed_nor_missed() {
    let (temporary, folder, _) = sealed(b"blob");
    for name in [
        ".DS_Store",
        "notes.txt~",
        ".charter.toml.swp",
        "README",
        "blobs/data/.DS_Store",
    ] {
        let path = temporary.path().join(name);
        fs::write(&path, b"one").unwrap();
        assert_eq!(compared(&folder), [], "{name} came");
        seal(&folder);
        fs::write(&path, b"two").unwrap();
        assert_eq!(compared(&folder), [], "{name} changed");
        fs::remove_file(&path).unwrap();
        assert_eq!(compared(&folder), [], "{name} went");
    }
    // but what a reader would take for the node's is
    let other = folder.blob(&Hash::of_blob(b"other"));
    fs::write(&other, b"other").unwrap();
    let found = compared(&folder);
    assert!(found.len() == 1 && found[0].path == other, "{found:?}");
    assert!(found[0].what.contains("was not there"), "{found:?}");
}

#[test]
fn only_the_key_may_be_kept_back() {
    let (temporary, folder, _) = sealed(b"blob");
    let away = temporary.path().join("away");
    fs::rename(folder.key(), &away).unwrap();
    let found = compared(&folder);
    assert!(
        found.len() == 1 && found[0].path == folder.key() && found[0].allowed,
        "{found:?}"
    );
    identity::create(&folder.key()).unwrap();
    let found = compared(&folder);
    assert!(
        found.len() == 1 && !found[0].allowed,
        "another key is no key kept back: {found:?}"
    );
}

#[test]
fn nothing_but_plain_files_is_opened() {
    let (temporary, folder, blob) = sealed(b"blob");
    let made = std::process::Command::new("mkfifo")
        .args([folder.log(), temporary.path().join("pipe")])
        .status();
    assert!(made.unwrap().success());
    symlink("nowhere", temporary.path().join(".#charter.toml")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(temporary.path().join("socket")).unwrap();
    symlink(temporary.path(), folder.checkpoints()).unwrap();
    let Written { sealed, mut left_out } = seal(&folder);
    left_out.sort();
    let of = |name: &str, what: &str| (temporary.path().join(name), what.to_string());
    let expected = vec![
        of(".#charter.toml", "is a symbolic link"),
        of("checkpoints", "is a symbolic link"),
        of("events.jsonl", "is a pipe"),
        of("pipe", "is a pipe"),
        of("socket", "is a socket"),
    ];
    assert_eq!((sealed, left_out), (true, expected));
    assert_eq!(compared(&folder), []);
    // a pipe in the place of a sealed file is a fault, and waits for nobody
    fs::rename(folder.log(), &blob).unwrap();
    let found = compared(&folder);
    assert_eq!(
        (found.len(), found[0].what.as_str()),
        (1, "is a pipe; a file was sealed")
    );
}

#[test]
fn whoever_breaks_ends_it_and_leaves_no_seal() {
    let (_temporary, folder, _) = sealed(&[7; 20_000]);
    remove(&folder).unwrap();
    let mut heard = Vec::new();
    let written = write(&folder, &mut |done, of| {
        heard.push((done, of));
        match done > 8192 {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    assert!(!written.unwrap().sealed && read(&folder).unwrap().is_none());
    let size = 20_000 + fs::metadata(folder.key()).unwrap().len();
    assert_eq!(heard, [(4096, size), (8192, size), (12288, size)]);
}
