//! What becomes of a demo's folder, whoever was there before and whenever the making ends.

use super::*;

fn write(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, "x").unwrap();
}

fn names(folder: &Path) -> Vec<String> {
    let names = entries(folder).unwrap();
    names.into_iter().map(|name| name.into_string().unwrap()).collect()
}

fn made(stage: &Stage) {
    for node in ["node-1", "node-2"] {
        write(&stage.path().join(node).join("key"));
    }
}

#[test]
fn it_is_whole_or_not_there() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("a/b");
    for (whole, there) in [(false, &[][..]), (true, &["node-1", "node-2"][..])] {
        let place = Place::take(&dir).unwrap();
        assert!(place.is_empty().unwrap());
        let stage = place.stage().unwrap();
        made(&stage);
        assert_eq!(names(&dir), [STAGE]);
        match whole {
            true => {
                stage.finish().unwrap();
                assert_eq!(names(&dir), there);
                assert!(!place.is_empty().unwrap());
            }
            false => {
                drop(stage);
                drop(place);
                assert_eq!(
                    names(home.path()),
                    [""; 0],
                    "folders that were made for it are gone too"
                );
            }
        }
    }
}

#[test]
fn what_a_killed_start_left_is_removed_or_moved_on() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("play");
    let stage = dir.join(STAGE);
    for (marker, whole, left) in [
        (Some(MARK), false, &[][..]),
        (Some(&MARK[..7]), false, &[][..]),
        (Some(""), false, &[][..]),
        (Some(MARK), true, &["node-1"][..]),
        (Some("of somebody else"), false, &[STAGE][..]),
        (None, true, &[STAGE][..]),
    ] {
        write(&stage.join("node-1/key"));
        if let Some(marker) = marker {
            fs::write(stage.join(MARKER), marker).unwrap();
        }
        if whole {
            write(&stage.join(WHOLE));
        }
        let place = Place::take(&dir).unwrap();
        assert_eq!(names(&dir), left, "{marker:?} {whole}");
        assert_eq!(place.is_empty().unwrap(), left.is_empty());
        drop(place);
        fs::remove_dir_all(&dir).unwrap();
    }
    fs::create_dir_all(&stage).unwrap();
    Place::take(&dir).unwrap();
    assert_eq!(names(&dir), [""; 0], "killed before anything was in it");
}

#[test]
fn one_demo_at_a_time_and_nothing_over_what_is_there() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("play");
    fs::create_dir(&dir).unwrap();
    for name in NOTHING {
        write(&dir.join(name));
    }
    let place = Place::take(&dir).unwrap();
    assert!(place.is_empty().unwrap(), "what systems leave is nothing");
    let second = Place::take(&dir).map(drop).unwrap_err().to_string();
    assert!(second.contains("in use by another `atoll demo`"), "{second}");
    let stage = place.stage().unwrap();
    made(&stage);
    write(&dir.join("node-2/thesis"));
    let refused = stage.finish().unwrap_err().to_string();
    assert!(refused.contains("node-2 is there already"), "{refused}");
    assert_eq!(names(&dir.join("node-2")), ["thesis"]);
    let file = home.path().join("letter");
    write(&file);
    for (named, said) in [(&file, "is no folder"), (&file.join("x"), "cannot make the folder")] {
        let refused = format!("{:#}", Place::take(named).map(drop).unwrap_err());
        assert!(refused.contains(said), "{refused}");
    }
    assert_eq!(names(home.path()), ["letter", "play"]);
}

#[cfg(unix)]
#[test]
fn a_folder_that_is_there_stays_what_it_is() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
    let home = tempfile::tempdir().unwrap();
    let (dir, link) = (home.path().join("real"), home.path().join("link"));
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o750)).unwrap();
    let before = fs::metadata(&dir).unwrap();
    symlink("real", &link).unwrap();
    symlink("nowhere", home.path().join("dangling")).unwrap();
    let place = Place::take(&link).unwrap();
    let stage = place.stage().unwrap();
    made(&stage);
    stage.finish().unwrap();
    let after = fs::metadata(&dir).unwrap();
    assert_eq!((before.ino(), before.mode()), (after.ino(), after.mode()));
    assert!(link.is_symlink() && link.join("node-1").is_dir());
    let refused = Place::take(&home.path().join("dangling"))
        .map(drop)
        .unwrap_err()
        .to_string();
    assert!(refused.contains("a link that leads nowhere"), "{refused}");
}
