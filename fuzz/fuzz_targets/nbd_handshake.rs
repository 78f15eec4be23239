//! What a client may send to a server, and a server to a client, before there are requests.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nbd::{
    BASE_ALLOCATION, BlockSizes, ClientGoal, ClientNegotiation, ExportInfo, Negotiation,
    TransmissionFlags,
};

/// All that one option can make the server say about [`exports`].
const MOST_OUTPUT_BYTES: usize = 4096;

fn exports() -> Vec<ExportInfo> {
    let export = |name: &str, contexts: &[&str]| ExportInfo {
        name: name.to_owned(),
        description: "disk".to_owned(),
        size_bytes: 1 << 20,
        flags: TransmissionFlags::from_bits(u16::MAX),
        block_sizes: BlockSizes::default(),
        contexts: contexts.iter().map(|&name| name.to_owned()).collect(),
    };
    vec![
        export("d", &[BASE_ALLOCATION, "qemu:dirty-bitmap:x"]),
        export("", &[]),
    ]
}

/// What a server says, and how it ends.
fn server(bytes: &[u8], piece: usize) -> (Vec<u8>, String) {
    let exports = exports();
    let mut server = Negotiation::new();
    let mut said = server.take_output();
    let mut rest = bytes;
    while !rest.is_empty() && server.outcome().is_none() {
        let now = &rest[..piece.min(rest.len())];
        match server.input(now, &exports) {
            Ok(taken) => {
                assert!(taken <= now.len());
                rest = &rest[taken..];
            }
            Err(error) => {
                said.extend(server.take_output());
                return (said, error.to_string());
            }
        }
        let output = server.take_output();
        assert!(output.len() <= MOST_OUTPUT_BYTES, "{}", output.len());
        said.extend(output);
    }
    (said, format!("{:?} {}", server.outcome(), rest.len()))
}

/// The same of a client.
fn client(goal: ClientGoal, bytes: &[u8], piece: usize) -> (Vec<u8>, String) {
    let mut client = ClientNegotiation::new(goal);
    let mut said = client.take_output();
    let mut rest = bytes;
    while !rest.is_empty() && client.outcome().is_none() {
        let now = &rest[..piece.min(rest.len())];
        match client.input(now) {
            Ok(taken) => {
                assert!(taken <= now.len());
                rest = &rest[taken..];
            }
            Err(error) => {
                // What was said before it, however that was cut.
                said.extend(client.take_output());
                return (said, error.to_string());
            }
        }
        said.extend(client.take_output());
    }
    (said, format!("{:?} {}", client.outcome(), rest.len()))
}

fuzz_target!(|data: &[u8]| {
    let Some((&piece, bytes)) = data.split_first() else {
        return;
    };
    let (piece, whole) = (usize::from(piece) + 1, bytes.len().max(1));
    assert_eq!(server(bytes, piece), server(bytes, whole));
    let go = || ClientGoal::Go {
        export: "d".to_owned(),
        contexts: vec![BASE_ALLOCATION.to_owned()],
    };
    assert_eq!(client(go(), bytes, piece), client(go(), bytes, whole));
    let list = || ClientGoal::List;
    assert_eq!(client(list(), bytes, piece), client(list(), bytes, whole));
});
