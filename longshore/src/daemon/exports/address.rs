//! Where an NBD server listens, as clients and command lines say it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs},
    path::PathBuf,
};

use aio::AioContext;
use nbd::NbdAddress;
use qmp::{QmpError, qapi_struct, qapi_union};

qapi_struct! {
    /// A TCP port.
    pub(crate) struct NbdInetAddress {
        /// An IP address, the name of a host, or nothing for all addresses of this host.
        host: String,
        /// The port, as a text; `0` lets the system choose.
        port: String,
        /// The host is an address and no name.
        numeric: Option<bool>,
        /// The last port to try.
        to: Option<u16>,
        /// Whether to use version 4 of the Internet protocol.
        ipv4: Option<bool>,
        /// Whether to use version 6 of the Internet protocol.
        ipv6: Option<bool>,
        /// Whether connections are probed while they are idle, which they are anyway.
        keep_alive: Option<bool>,
        /// Whether to use several paths, which is not supported.
        mptcp: Option<bool>,
    }
}

qapi_struct! {
    /// A Unix socket.
    pub(crate) struct NbdUnixAddress {
        /// Its file.
        path: String,
        /// A name without a file, which is not supported.
        r#abstract: Option<bool>,
        /// How long such a name is.
        tight: Option<bool>,
    }
}

qapi_struct! {
    /// A port of a virtual machine's own kind of socket.
    pub(crate) struct NbdVsockAddress {
        /// The machine.
        cid: String,
        /// The port.
        port: String,
    }
}

qapi_struct! {
    /// A socket that the daemon has inherited.
    pub(crate) struct NbdFdAddress {
        /// Its number or name.
        str: String,
    }
}

qapi_union! {
    /// Where to listen, as command lines say it.
    pub(crate) struct NbdSocketAddress {}
    /// The kind of the address.
    tag r#type: NbdSocketAddressType, pub(crate) enum NbdSocketAddressKind {
        /// TCP.
        Inet(NbdInetAddress),
        /// A file.
        Unix(NbdUnixAddress),
        /// A machine and its port.
        Vsock(NbdVsockAddress),
        /// An open socket.
        Fd(NbdFdAddress),
    }
}

qapi_struct! {
    /// The data of an address of the kind `inet`.
    pub(crate) struct NbdInetData {
        /// All of it.
        data: NbdInetAddress,
    }
}

qapi_struct! {
    /// The data of an address of the kind `unix`.
    pub(crate) struct NbdUnixData {
        /// All of it.
        data: NbdUnixAddress,
    }
}

qapi_struct! {
    /// The data of an address of the kind `vsock`.
    pub(crate) struct NbdVsockData {
        /// All of it.
        data: NbdVsockAddress,
    }
}

qapi_struct! {
    /// The data of an address of the kind `fd`.
    pub(crate) struct NbdFdData {
        /// All of it.
        data: NbdFdAddress,
    }
}

qapi_union! {
    /// Where to listen, as clients say it.
    pub(crate) struct NbdSocketAddressLegacy {}
    /// The kind of the address.
    tag r#type: NbdSocketAddressLegacyType, pub(crate) enum NbdSocketAddressLegacyKind {
        /// TCP.
        Inet(NbdInetData),
        /// A file.
        Unix(NbdUnixData),
        /// A machine and its port.
        Vsock(NbdVsockData),
        /// An open socket.
        Fd(NbdFdData),
    }
}

impl From<NbdSocketAddressLegacy> for NbdSocketAddress {
    fn from(legacy: NbdSocketAddressLegacy) -> Self {
        let kind = match legacy.r#type {
            NbdSocketAddressLegacyKind::Inet(inet) => NbdSocketAddressKind::Inet(inet.data),
            NbdSocketAddressLegacyKind::Unix(unix) => NbdSocketAddressKind::Unix(unix.data),
            NbdSocketAddressLegacyKind::Vsock(vsock) => NbdSocketAddressKind::Vsock(vsock.data),
            NbdSocketAddressLegacyKind::Fd(fd) => NbdSocketAddressKind::Fd(fd.data),
        };
        Self { r#type: kind }
    }
}

/// Longest path of a socket, in bytes; the system wants a zero behind it.
const PATH_BYTES_MAX: usize = 107;

/// The addresses to try, in this order; there is at least one.
pub(super) async fn addresses(
    context: &AioContext,
    address: &NbdSocketAddress,
) -> Result<Vec<NbdAddress>, QmpError> {
    match &address.r#type {
        NbdSocketAddressKind::Inet(inet) => inet_addresses(context, inet).await,
        NbdSocketAddressKind::Unix(unix) if unix.r#abstract == Some(true) => {
            Err(unsupported("abstract Unix sockets"))
        }
        NbdSocketAddressKind::Unix(unix) if unix.path.len() > PATH_BYTES_MAX => {
            let text = format!("UNIX socket path '{}' is too long", unix.path);
            Err(QmpError::generic(text))
        }
        NbdSocketAddressKind::Unix(unix) => Ok(vec![NbdAddress::Unix(PathBuf::from(&unix.path))]),
        NbdSocketAddressKind::Vsock(_) => Err(unsupported("addresses of type 'vsock'")),
        NbdSocketAddressKind::Fd(_) => Err(unsupported("addresses of type 'fd'")),
    }
}

async fn inet_addresses(
    context: &AioContext,
    inet: &NbdInetAddress,
) -> Result<Vec<NbdAddress>, QmpError> {
    if inet.mptcp == Some(true) {
        return Err(unsupported("multipath TCP"));
    }
    let ip = ip_of(context, inet).await?;
    let port = inet.port.parse();
    let first: u16 = port.map_err(|_| unresolved(inet, "not a port"))?;
    let last = inet.to.unwrap_or(first);
    if last < first {
        return Err(QmpError::generic(
            "Parameter 'to' expects a port from 'port' on",
        ));
    }
    let ports = first..=last;
    Ok(ports
        .map(|port| NbdAddress::Tcp(SocketAddr::new(ip, port)))
        .collect())
}

async fn ip_of(context: &AioContext, inet: &NbdInetAddress) -> Result<IpAddr, QmpError> {
    let wants_v6 = inet.ipv4 == Some(false) || (inet.ipv6 == Some(true) && inet.ipv4.is_none());
    let ip = match inet.host.as_str() {
        "localhost" if wants_v6 => Some(IpAddr::from(std::net::Ipv6Addr::LOCALHOST)),
        "localhost" => Some(IpAddr::from(Ipv4Addr::LOCALHOST)),
        "" if inet.ipv6 == Some(false) => Some(IpAddr::from(Ipv4Addr::UNSPECIFIED)),
        "" => Some(IpAddr::from(std::net::Ipv6Addr::UNSPECIFIED)),
        host => host.parse().ok(),
    };
    match ip {
        Some(ip) => Ok(ip),
        None if inet.numeric == Some(true) => Err(unresolved(inet, "not an IP address")),
        None => {
            let may_be = |ip: &IpAddr| match ip {
                IpAddr::V4(_) => !wants_v6,
                IpAddr::V6(_) => inet.ipv6 != Some(false),
            };
            let mut found = look_up(context, inet).await?;
            found.retain(may_be);
            // Those who mean a host by its name expect its older address.
            let first = found.iter().find(|ip| ip.is_ipv4()).or(found.first());
            first.copied().ok_or_else(|| unresolved(inet, "no address"))
        }
    }
}

/// The addresses of a host that is known by name; a worker asks for them, since that takes its time.
async fn look_up(context: &AioContext, inet: &NbdInetAddress) -> Result<Vec<IpAddr>, QmpError> {
    let name = inet.host.clone();
    let found = context.blocking(move || -> io::Result<Vec<IpAddr>> {
        let found = (name.as_str(), 0).to_socket_addrs()?;
        Ok(found.map(|address| address.ip()).collect())
    });
    found.await.map_err(|error| {
        let text = error.to_string();
        let why = text.rsplit(": ").next().unwrap_or(&text);
        unresolved(inet, why)
    })
}

fn unresolved(inet: &NbdInetAddress, why: &str) -> QmpError {
    let (host, port) = (&inet.host, &inet.port);
    QmpError::generic(format!(
        "address resolution failed for {host}:{port}: {why}"
    ))
}

fn unsupported(what: &str) -> QmpError {
    QmpError::generic(format!("The NBD server does not support {what}"))
}

#[cfg(test)]
mod tests {
    use nbd::NbdAddress;
    use qmp::{Qapi, keyval};
    use serde_json::json;

    use super::{NbdSocketAddress, NbdSocketAddressLegacy, addresses};

    fn asked(address: &NbdSocketAddress) -> Result<Vec<NbdAddress>, String> {
        let address = address.clone();
        let found = aio::run(aio::Config::default(), |cx| async move {
            addresses(&cx, &address).await
        });
        found.unwrap().map_err(|error| error.desc)
    }

    fn flat(text: &str) -> Result<Vec<String>, String> {
        let address = keyval::parse(text, None).unwrap().read();
        let address: NbdSocketAddress = address.map_err(|error| error.desc)?;
        let found = asked(&address)?;
        Ok(found.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn both_forms_are_the_same_address() {
        let nested = json!({"type": "unix", "data": {"path": "/run/nbd"}});
        let nested = NbdSocketAddressLegacy::from_json(&nested).unwrap();
        let found = asked(&nested.into()).unwrap();
        assert_eq!(found, [NbdAddress::Unix("/run/nbd".into())]);
        assert_eq!(flat("type=unix,path=/run/nbd").unwrap(), ["/run/nbd"]);
    }

    #[test]
    fn tcp_takes_addresses_and_ranges_of_ports() {
        let text = "type=inet,host=127.0.0.1,port=10809";
        assert_eq!(flat(text).unwrap(), ["127.0.0.1:10809"]);
        let text = format!("{text},to=10810");
        assert_eq!(flat(&text).unwrap(), ["127.0.0.1:10809", "127.0.0.1:10810"]);
        let v6 = "type=inet,host=localhost,port=1,ipv6=on,ipv4=off";
        assert_eq!(flat(v6).unwrap(), ["[::1]:1"]);
        assert_eq!(
            flat("type=inet,host=,port=1,ipv6=off").unwrap(),
            ["0.0.0.0:1"]
        );
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let nobody = format!("type=inet,host={},port=1", "x".repeat(64));
        for (text, want) in [
            (
                "type=vsock,cid=1,port=2",
                "does not support addresses of type 'vsock'",
            ),
            ("type=fd,str=3", "does not support addresses of type 'fd'"),
            ("type=unix,path=x,abstract=on", "does not support abstract"),
            (
                "type=inet,host=::1,port=1,mptcp=on",
                "does not support multipath",
            ),
            (
                "type=inet,host=example.org,port=1,numeric=on",
                "address resolution failed",
            ),
            // No label of a name is that long, so nobody is asked.
            (&nobody, "address resolution failed"),
            (
                &format!("type=unix,path={}", "x".repeat(108)),
                "' is too long",
            ),
            ("type=inet,host=::1,port=99999", "address resolution failed"),
            ("type=inet,host=::1,port=2,to=1", "'to' expects"),
            ("type=frob", "Parameter 'type' does not accept value 'frob'"),
            ("type=unix", "Parameter 'path' is missing"),
        ] {
            let error = flat(text).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
