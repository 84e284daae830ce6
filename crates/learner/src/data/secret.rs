//! What looks like a secret, and so never gets into a corpus that others are served.
//!
//! Decided from names and texts alone. What is found is left out and named; what is missed here is published, so
//! where a name says "secret" the file's content does not matter.

/// How Atoll's own key files begin.
const ATOLL_KEY: &str = "atoll key v1: keep this file secret and back it up";
/// Digits of a secret in such a file.
const ATOLL_DIGITS: usize = 64;
/// Characters of base64 behind a PEM header that are no longer an example's.
const PEM_CHARACTERS: usize = 32;
/// Bytes between the dashes and `PRIVATE KEY`.
const PEM_KIND_MAX: usize = 32;
/// Bytes between a PEM header and its base64: line ends, `Proc-Type` and `DEK-Info`.
const PEM_HEADERS_MAX: usize = 400;
/// Files that hold secrets by convention.
const NAMES: [&str; 22] = [
    ".env",
    ".netrc",
    "_netrc",
    ".git-credentials",
    ".pgpass",
    ".npmrc",
    ".pypirc",
    ".htpasswd",
    ".dockercfg",
    ".vault-token",
    "credentials",
    "credentials.json",
    "client_secret.json",
    "application_default_credentials.json",
    "id_rsa",
    "id_dsa",
    "id_ecdsa",
    "id_ed25519",
    "id_ecdsa_sk",
    "id_ed25519_sk",
    "secrets.yaml",
    "secrets.yml",
];
/// Endings of key stores.
const ENDINGS: [&str; 6] = ["p12", "pfx", "jks", "keystore", "kdbx", "ppk"];
/// What copies of a file are called.
const COPIES: [&str; 9] = [".bak", ".old", ".orig", ".save", ".backup", ".copy", "~", ".gz", ".zst"];

/// Why a file of this name is not read, if its name says that it holds a secret.
pub fn secret_by_name(name: &str) -> Option<&'static str> {
    let mut name = name.to_lowercase();
    while let Some(shorter) = COPIES.iter().find_map(|copy| name.strip_suffix(copy)) {
        name = shorter.to_string();
    }
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
    let is_environment = name.starts_with(".env.") && !matches!(ending, "example" | "sample" | "template" | "dist");
    match NAMES.contains(&name.as_str()) || is_environment || ENDINGS.contains(&ending) {
        true => Some("its name is that of a file with passwords or keys"),
        false => None,
    }
}

/// Why a text is not taken, if it holds a secret key.
pub fn secret_in_text(text: &str) -> Option<&'static str> {
    if text
        .match_indices(ATOLL_KEY)
        .any(|(at, key)| is_atoll_key(&text[at + key.len()..]))
    {
        return Some("it holds the secret key of an Atoll node");
    }
    let mut headers = text
        .match_indices("PRIVATE KEY")
        .filter(|(at, _)| begins_pem(&text.as_bytes()[..*at]));
    match headers.any(|(at, header)| is_pem(&text[at + header.len()..])) {
        true => Some("it holds a private key (PEM)"),
        false => None,
    }
}

/// Whether a folder with entries of these names is a node's: its key and what it trained on are nobody else's.
pub(super) fn is_node_folder<'a>(names: impl IntoIterator<Item = &'a str>, key: Option<&str>) -> bool {
    let (mut settings, mut charter) = (false, false);
    for name in names {
        match name {
            "ledger.redb" | "trainer.bin" => return true,
            "node.toml" => settings = true,
            "charter.toml" => charter = true,
            _ => {}
        }
    }
    settings && charter || key.is_some_and(|key| key.starts_with(ATOLL_KEY))
}

/// Bytes of a file that tell [`is_node_folder`] whether it is a key.
pub(super) const KEY_BYTES: u64 = ATOLL_KEY.len() as u64;

/// Line ends, also as a JSON string or a shell has them.
fn behind_line_ends(text: &str) -> &str {
    let mut rest = text;
    loop {
        let shorter = rest.trim_start_matches([' ', '\t', '\r', '\n', '>', '|', '#', '*']);
        let shorter = ["\\r", "\\n"]
            .iter()
            .find_map(|end| shorter.strip_prefix(end))
            .unwrap_or(shorter);
        if shorter.len() == rest.len() {
            return rest;
        }
        rest = shorter;
    }
}

fn is_atoll_key(rest: &str) -> bool {
    let rest = behind_line_ends(rest);
    let digits = rest.strip_prefix("secret").map(str::trim_start).unwrap_or_default();
    digits.bytes().take_while(u8::is_ascii_hexdigit).count() >= ATOLL_DIGITS
}

/// Whether a PEM header begins right before its words "PRIVATE KEY": `-----BEGIN `, and `RSA ` or the like.
fn begins_pem(before: &[u8]) -> bool {
    let kind = |byte: &&u8| **byte == b' ' || byte.is_ascii_uppercase();
    let words = before.iter().rev().take(PEM_KIND_MAX).take_while(kind).count();
    let (dashes, words) = before.split_at(before.len() - words);
    dashes.ends_with(b"-----") && words.starts_with(b"BEGIN ")
}

fn is_pem(rest: &str) -> bool {
    // " BLOCK" is how PGP goes on
    let rest = rest.strip_prefix(" BLOCK").unwrap_or(rest);
    let Some(body) = rest.strip_prefix("-----") else {
        return false;
    };
    let mut end = body.len().min(PEM_HEADERS_MAX);
    while !body.is_char_boundary(end) {
        end -= 1;
    }
    let head = behind_line_ends(&body[..end]);
    let base64 = |line: &str| {
        let count = line
            .bytes()
            .take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='))
            .count();
        count >= PEM_CHARACTERS
    };
    let is_headed = ["Proc-Type:", "DEK-Info:", "Version:", "Comment:"]
        .iter()
        .any(|name| head.starts_with(name));
    is_headed || base64(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in [
            ".env",
            ".env.local",
            ".ENV",
            "id_rsa",
            "id_ed25519",
            "id_ed25519.bak",
            "id_rsa~",
            ".netrc",
            "credentials",
            "credentials.bak.old",
            ".git-credentials",
            "store.p12",
            "Me.PFX",
            ".env.gz",
            "credentials.json",
        ] {
            assert!(secret_by_name(name).is_some(), "{name}");
        }
        for name in [
            "id_rsa.pub",
            "environment.md",
            ".env.example",
            "key",
            "keys.txt",
            "monkey.key",
            "cert.pem",
            "a.txt",
            "",
            "credentials.md",
            "~",
            ".bak",
        ] {
            assert!(secret_by_name(name).is_none(), "{name}");
        }
    }

    #[test]
    fn texts() {
        let body = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSj";
        let atoll = format!("{ATOLL_KEY}\nsecret {}\npublic {}\n", "0a".repeat(32), "1b".repeat(32));
        let pem = |kind: &str, between: &str| format!("-----BEGIN {kind}PRIVATE KEY-----{between}{body}\n");
        for text in [
            atoll.clone(),
            format!("\u{feff}my notes:\n{}", atoll.replace('\n', "\r\n")),
            format!("{{\"key\": \"{}\"}}", atoll.replace('\n', "\\n")),
            pem("", "\n"),
            pem("RSA ", "\r\n"),
            pem("OPENSSH ", "\n"),
            pem("ENCRYPTED ", "\n"),
            pem("", "\\n"),
            format!("text before\n{}", pem("EC ", "\n")),
            pem("RSA ", "\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n"),
            format!("-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n{body}"),
        ] {
            assert!(secret_in_text(&text).is_some(), "{text}");
        }
        for text in [
            String::new(),
            format!("const FIRST_LINE: &str = \"{ATOLL_KEY}\";"),
            format!("{ATOLL_KEY}\nsecret …\n"),
            format!("-----BEGIN PUBLIC KEY-----\n{body}"),
            "a file that begins with -----BEGIN PRIVATE KEY----- and goes on with base64".into(),
            "-----BEGIN RSA PRIVATE KEY-----\n...\n-----END RSA PRIVATE KEY-----".into(),
            "the PRIVATE KEY of a user".into(),
        ] {
            assert_eq!(secret_in_text(&text), None, "{text}");
        }
    }

    #[test]
    fn folders_of_nodes() {
        for (names, key, expected) in [
            (&["ledger.redb"][..], None, true),
            (&["a.txt", "trainer.bin"], None, true),
            (&["charter.toml", "node.toml"], None, true),
            (&["key"], Some(ATOLL_KEY), true),
            (&["key"], Some("the key to all mythologies"), false),
            (&["charter.toml", "a.txt"], None, false),
            (&[], None, false),
        ] {
            assert_eq!(is_node_folder(names.iter().copied(), key), expected, "{names:?}");
        }
    }

    #[test]
    fn a_text_of_many_headers_takes_one_pass() {
        // what is looked at around each of them is bounded, or this would not end
        let text = "PRIVATE KEY".repeat(200_000);
        assert_eq!(secret_in_text(&text), None);
    }
}
