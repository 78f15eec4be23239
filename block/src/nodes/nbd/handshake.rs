//! [`connect`]: from an address to a server that has agreed to serve an export.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    os::fd::AsFd,
};

use aio::{Address, AioContext, Fd, IoBuf, SendPart};
use nbd::{
    BASE_ALLOCATION, ClientGoal, ClientNegotiation, ClientOutcome, ClientSession, NbdAddress,
    OptionRefusal, ProtocolError,
};
use nix::sys::socket::{setsockopt, sockopt};

use super::connection::Opened;
use crate::error::{BlockError, ErrorKind};

/// Longest time in nanoseconds that a server may take to agree.
pub(super) const HANDSHAKE_MAX_NS: u64 = 10_000_000_000;

const MESSAGE_BYTES: usize = 4096;

/// Connects to `export` of the server at `address`, in `limit_ns` at most.
pub(super) async fn connect(
    cx: &AioContext,
    (address, export): (&NbdAddress, &str),
    limit_ns: u64,
) -> Result<Opened, BlockError> {
    let agreed = async {
        let socket = reach(cx, address)
            .await
            .map_err(|error| BlockError::io(format!("cannot connect to {address}"), error))?;
        let session = negotiate(cx, &socket, export).await?;
        Ok(Opened { socket, session })
    };
    let agreed = cx.timeout_ns(limit_ns, agreed).await;
    agreed.unwrap_or_else(|_| {
        let source = io::Error::from_raw_os_error(libc::ETIMEDOUT);
        let text = format!("the NBD server at {address} does not answer");
        Err(BlockError::io(text, source))
    })
}

async fn reach(cx: &AioContext, address: &NbdAddress) -> io::Result<Fd> {
    match address {
        NbdAddress::Unix(path) => cx.connect(&Address::Unix(path.clone())).await,
        NbdAddress::Tcp(address) => connect_tcp(cx, *address).await,
        NbdAddress::Host { name, port } => {
            let host = (name.clone(), *port);
            let found = cx
                .blocking(move || host.to_socket_addrs().map(Vec::from_iter))
                .await?;
            let mut last = io::Error::from_raw_os_error(libc::EHOSTUNREACH);
            for address in found {
                match connect_tcp(cx, address).await {
                    Ok(socket) => return Ok(socket),
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
    }
}

async fn connect_tcp(cx: &AioContext, address: SocketAddr) -> io::Result<Fd> {
    let socket = cx.connect(&Address::Ip(address)).await?;
    // Without them it works, too, but for dead peers, and slower.
    let _ = setsockopt(&socket.as_fd(), sockopt::TcpNoDelay, &true);
    let _ = setsockopt(&socket.as_fd(), sockopt::KeepAlive, &true);
    Ok(socket)
}

async fn negotiate(
    cx: &AioContext,
    socket: &Fd,
    export: &str,
) -> Result<ClientSession, BlockError> {
    let mut negotiation = ClientNegotiation::new(ClientGoal::Go {
        export: export.to_owned(),
        contexts: vec![BASE_ALLOCATION.to_owned()],
    });
    let lost = |error| BlockError::io("the NBD server went away in the negotiation", error);
    let mut buf = IoBuf::heap(MESSAGE_BYTES);
    loop {
        let output = negotiation.take_output();
        if !output.is_empty() {
            send(cx, socket, &output).await.map_err(lost)?;
        }
        match negotiation.outcome() {
            None => {}
            Some(ClientOutcome::Transmission(session)) => return Ok(session.clone()),
            Some(ClientOutcome::Refused { refusal, text }) => {
                return Err(refused(*refusal, text, export));
            }
            Some(ClientOutcome::Listed(_)) => unreachable!("nobody asked for a list"),
        }
        let received;
        (buf, received) = cx.recv(socket, buf, 0..MESSAGE_BYTES).await;
        let len = match received.map_err(lost)? {
            0 => return Err(lost(io::ErrorKind::UnexpectedEof.into())),
            len => len,
        };
        let taken = negotiation.input(&buf[..len]).map_err(broken)?;
        if taken < len {
            return Err(broken(ProtocolError::BadReply("replies before requests")));
        }
    }
}

async fn send(cx: &AioContext, socket: &Fd, bytes: &[u8]) -> io::Result<()> {
    let mut buf = IoBuf::heap(bytes.len());
    buf.copy_from_slice(bytes);
    let (_, sent) = cx.send(socket, vec![SendPart::whole(buf)]).await;
    sent
}

fn refused(refusal: OptionRefusal, text: &str, export: &str) -> BlockError {
    let kind = match refusal {
        OptionRefusal::UnknownExport => ErrorKind::NotFound,
        _ => ErrorKind::Io,
    };
    let why = match refusal {
        OptionRefusal::UnknownExport => "there is none of that name".to_owned(),
        OptionRefusal::TlsRequired => "it wants TLS, which is not supported".to_owned(),
        _ if text.is_empty() => format!("{refusal:?}"),
        _ => text.to_owned(),
    };
    BlockError::new(
        kind,
        format!("the NBD server refuses export '{export}': {why}"),
    )
}

fn broken(error: ProtocolError) -> BlockError {
    BlockError::new(ErrorKind::Io, format!("not a usable NBD server: {error}"))
}
