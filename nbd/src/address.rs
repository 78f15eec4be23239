//! [`NbdAddress`] and [`NbdUri`]: where a server listens, and how that is written.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::PathBuf,
    str::FromStr,
};

/// The port of NBD.
const PORT: u16 = 10809;
/// Longest name of a host.
const HOST_BYTES_MAX: usize = 253;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NbdAddress {
    /// A Unix socket at this path.
    Unix(PathBuf),
    /// A TCP port; for a server, port zero lets the system choose one.
    Tcp(SocketAddr),
    /// A TCP port of a machine that is known by name. Only clients can use it.
    Host {
        /// The machine's name; whether it exists, is for the caller to find out.
        name: String,
        /// The port.
        port: u16,
    },
}

impl fmt::Display for NbdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Host { name, port } => write!(f, "{name}:{port}"),
        }
    }
}

/// An NBD URI: an address and the name of an export, as in `nbd+unix:///disk?socket=/run/disk.sock`
/// or `nbd://127.0.0.1:10809/disk`.
///
/// Displayed, it is the text that clients such as `qemu-img` and `nbdcopy` take. `nbds` (TLS) is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NbdUri {
    /// Where the server listens.
    pub address: NbdAddress,
    /// The export's name; empty is the default export.
    pub export: String,
}

/// A text is no NBD URI, or one of a kind that is not supported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{uri}' is not an NBD URI that can be used: {why}")]
pub struct UriError {
    /// The text.
    pub uri: String,
    /// What is wrong with it, and what is expected.
    pub why: String,
}

impl FromStr for NbdUri {
    type Err = UriError;

    fn from_str(uri: &str) -> Result<Self, UriError> {
        parse(uri).map_err(|why| UriError {
            uri: uri.to_owned(),
            why,
        })
    }
}

impl fmt::Display for NbdUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = encoded(self.export.as_bytes());
        match &self.address {
            NbdAddress::Unix(path) => {
                let path = encoded(path.as_os_str().as_bytes());
                write!(f, "nbd+unix:///{name}?socket={path}")
            }
            address => write!(f, "nbd://{address}/{name}"),
        }
    }
}

fn parse(uri: &str) -> Result<NbdUri, String> {
    let Some((scheme, rest)) = uri.split_once("://") else {
        return Err("expected nbd+unix:///NAME?socket=PATH or nbd://HOST:PORT/NAME".to_owned());
    };
    let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let name = decoded(path.strip_prefix('/').unwrap_or(path))?;
    let export = String::from_utf8(name).map_err(|_| "the export's name is not UTF-8")?;
    let address = match scheme {
        "nbd+unix" => unix_address(authority, query)?,
        "nbd" => tcp_address(authority, query)?,
        "nbds" | "nbds+unix" => return Err("TLS is not supported".to_owned()),
        _ => return Err(format!("the scheme '{scheme}' is neither nbd nor nbd+unix")),
    };
    Ok(NbdUri { address, export })
}

fn unix_address(authority: &str, query: &str) -> Result<NbdAddress, String> {
    if !authority.is_empty() {
        let why = "three slashes follow 'nbd+unix:', since a Unix socket has no host";
        return Err(why.to_owned());
    }
    match query.split_once('=') {
        Some(("socket", "")) | None => Err("'?socket=PATH' is missing".to_owned()),
        Some(("socket", path)) if !path.contains('&') => {
            let path = std::ffi::OsString::from_vec(decoded(path)?);
            Ok(NbdAddress::Unix(path.into()))
        }
        Some(_) => Err("only 'socket=PATH' may follow the '?'".to_owned()),
    }
}

fn tcp_address(authority: &str, query: &str) -> Result<NbdAddress, String> {
    if !query.is_empty() {
        return Err("'?' and what follows it mean nothing for a TCP address".to_owned());
    }
    let after_ipv6 = authority.rfind(']').map_or(0, |at| at + 1);
    let (host, port) = match authority[after_ipv6..].rfind(':') {
        Some(at) => {
            let port = &authority[after_ipv6 + at + 1..];
            let port = port.parse();
            let port = port.map_err(|_| "the port is not a number up to 65535".to_owned())?;
            (&authority[..after_ipv6 + at], port)
        }
        None => (authority, PORT),
    };
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    if host.is_empty() {
        return Err("the host is missing".to_owned());
    }
    if host == "localhost" {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        return Ok(NbdAddress::Tcp(SocketAddr::new(ip, port)));
    }
    if let Ok(ip) = bare.unwrap_or(host).parse() {
        return Ok(NbdAddress::Tcp(SocketAddr::new(ip, port)));
    }
    let is_of_a_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if host.len() <= HOST_BYTES_MAX && host.chars().all(is_of_a_name) {
        let name = host.to_owned();
        return Ok(NbdAddress::Host { name, port });
    }
    Err(format!(
        "'{host}' is neither an address nor the name of a host"
    ))
}

/// Takes `%2F` and the like apart.
fn decoded(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
        let (high, low) = (digit(), digit());
        let value = high
            .zip(low)
            .and_then(|(high, low)| u8::try_from(16 * high + low).ok());
        bytes.push(value.ok_or("two hexadecimal digits follow a '%'")?);
    }
    if bytes.contains(&0) {
        return Err("a zero byte cannot be part of it".to_owned());
    }
    Ok(bytes)
}

/// Hides what would mean something else in a URI.
fn encoded(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        let plain = byte.is_ascii_alphanumeric() || b"-._~/:@".contains(&byte);
        if plain {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{NbdAddress, NbdUri};

    fn parsed(uri: &str) -> NbdUri {
        uri.parse().unwrap()
    }

    #[track_caller]
    fn refused(uri: &str, why: &str) {
        let error = uri.parse::<NbdUri>().unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert!(error.contains(uri), "{error}");
    }

    #[test]
    fn unix_uris_name_socket_and_export() {
        let uri = parsed("nbd+unix:///disk?socket=/run/my%20disk.sock");
        assert_eq!(uri.address, NbdAddress::Unix("/run/my disk.sock".into()));
        assert_eq!(uri.export, "disk");
        assert_eq!(parsed("nbd+unix:///?socket=a").export, "");
        assert_eq!(parsed("nbd+unix://?socket=a").export, "");
    }

    #[test]
    fn tcp_uris_name_host_port_and_export() {
        let tcp = |text: &str| NbdAddress::Tcp(text.parse().unwrap());
        let uri = parsed("nbd://127.0.0.1:99/a%2fb");
        assert_eq!(
            (uri.address, uri.export.as_str()),
            (tcp("127.0.0.1:99"), "a/b")
        );
        assert_eq!(parsed("nbd://localhost").address, tcp("127.0.0.1:10809"));
        assert_eq!(parsed("nbd://[::1]:7/").address, tcp("[::1]:7"));
        assert_eq!(parsed("nbd://[::1]").address, tcp("[::1]:10809"));
        let (name, port) = ("store-1.example.org".to_owned(), 7);
        let uri = parsed("nbd://store-1.example.org:7/x");
        assert_eq!(uri.address, NbdAddress::Host { name, port });
    }

    #[test]
    fn a_uri_is_displayed_as_it_is_parsed() {
        for text in [
            "nbd+unix:///disk?socket=/run/my%20disk.sock",
            "nbd+unix:///?socket=/run/a",
            "nbd://[::1]:7/x",
            "nbd://127.0.0.1:10809/%C3%A4",
            "nbd://example.org:10809/x",
        ] {
            assert_eq!(parsed(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_with_a_uri_is_said() {
        refused("/run/x.sock", "expected nbd+unix:///NAME?socket=PATH");
        refused("http://x", "the scheme 'http' is neither");
        refused("nbds://x", "TLS is not supported");
        refused("nbd+unix:///x", "'?socket=PATH' is missing");
        refused("nbd+unix:///x?socket=", "'?socket=PATH' is missing");
        refused("nbd+unix:///x?tls=1", "only 'socket=PATH'");
        refused("nbd+unix:///x?socket=a&b=c", "only 'socket=PATH'");
        refused("nbd+unix://run/x?socket=a", "three slashes");
        refused("nbd://", "the host is missing");
        refused(
            "nbd://exa mple.org/x",
            "neither an address nor the name of a host",
        );
        refused("nbd://me@example.org/x", "neither an address nor");
        refused("nbd://127.0.0.1:x/", "the port is not a number");
        refused("nbd://127.0.0.1:99999/", "the port is not a number");
        refused("nbd://127.0.0.1/x?socket=a", "mean nothing for a TCP");
        refused("nbd://127.0.0.1/%f", "two hexadecimal digits");
        refused("nbd://127.0.0.1/%00", "a zero byte");
        refused("nbd://127.0.0.1/%ff", "not UTF-8");
    }
}
