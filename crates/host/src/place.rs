//! Where a node listens: an address or a host name, with a port.

use serde::{Deserialize, Serialize};
use std::{fmt, io, net::SocketAddr, str::FromStr};
use thiserror::Error;

/// Bytes of a host name (RFC 1035).
const HOST_BYTES_MAX: usize = 253;

/// `ADDRESS:PORT`, `[IPV6]:PORT` or `HOST:PORT`. A host name is looked up at each dial, since what is behind it may
/// move.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Place(String);

/// A text that is no place.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is no place: {what}; 203.0.113.7:7700, [2001:db8::7]:7700 and host.example:7700 are")]
pub struct PlaceError {
    text: String,
    what: &'static str,
}

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let refuse = |what| {
            let text = text.chars().take(HOST_BYTES_MAX).collect();
            Err(PlaceError { text, what })
        };
        if text.parse::<SocketAddr>().is_ok() {
            return Ok(Self(text.to_string()));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return refuse("it has no port");
        };
        if port.parse::<u16>().is_err() {
            return refuse("its port is no number from 0 to 65535");
        }
        if host.contains(':') {
            return refuse("an IPv6 address stands in brackets");
        }
        let fits = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_');
        if host.is_empty() || host.len() > HOST_BYTES_MAX || !host.chars().all(fits) {
            return refuse("its host is no name");
        }
        let numbers = |part: &str| !part.is_empty() && part.chars().all(|digit| digit.is_ascii_digit());
        if host.trim_end_matches('.').split('.').all(numbers) {
            return refuse("its host is no address"); // such as 203.0.113.700, which would be asked of a name server
        }
        Ok(Self(text.to_string()))
    }
}

impl TryFrom<String> for Place {
    type Error = PlaceError;

    fn try_from(text: String) -> Result<Self, PlaceError> {
        text.parse()
    }
}

impl From<Place> for String {
    fn from(place: Place) -> Self {
        place.0
    }
}

impl From<SocketAddr> for Place {
    fn from(address: SocketAddr) -> Self {
        Self(address.to_string())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Place {
    /// The addresses that it stands for now, at least one.
    ///
    /// # Errors
    /// Where a name server does not know the name or does not answer.
    pub async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = self.0.parse() {
            return Ok(vec![address]);
        }
        let found: Vec<SocketAddr> = tokio::net::lookup_host(&self.0).await?.collect();
        match found.is_empty() {
            true => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")),
            false => Ok(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_place_and_what_is_not() {
        for good in [
            "127.0.0.1:7700",
            "0.0.0.0:0",
            "[::1]:7700",
            "localhost:7700",
            "node-1.example.org:65535",
            "my_host.:1",
        ] {
            assert_eq!(good.parse::<Place>().map(String::from).as_deref(), Ok(good));
        }
        for (bad, why) in [
            ("localhost", "no port"),
            ("localhost:", "no number"),
            ("localhost:70000", "no number"),
            (":7700", "no name"),
            ("::1:7700", "in brackets"),
            ("203.0.113.700:7700", "no address"),
            ("a b:1", "no name"),
            ("http://a:1", "in brackets"),
            ("", "no port"),
        ] {
            let error = bad.parse::<Place>().expect_err(bad).to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[tokio::test]
    async fn names_and_addresses_are_looked_up() {
        let of = |text: &str| text.parse::<Place>().unwrap();
        assert_eq!(
            of("127.0.0.1:5").addresses().await.unwrap(),
            [([127, 0, 0, 1], 5).into()]
        );
        let found = of("localhost:5").addresses().await.unwrap();
        assert!(
            found
                .iter()
                .all(|address| address.ip().is_loopback() && address.port() == 5),
            "{found:?}"
        );
        assert!(of("nowhere.invalid:5").addresses().await.is_err(), "RFC 2606");
    }
}
