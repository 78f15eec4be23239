//! Requests: the layout on the wire and each reason to refuse.

use super::{Command, HeaderMode, MAX_TRANSFER_BYTES, Request};
use crate::{BlockSizes, CommandFlags, Errno, ExportLimits, ProtocolError, TransmissionFlags};

const KIB: u64 = 1024;
const SIZE: u64 = 100 * 1024 * KIB;
const MAX: u64 = MAX_TRANSFER_BYTES as u64;

const DATA: [Command; 6] = [
    Command::Read,
    Command::Write,
    Command::Trim,
    Command::Cache,
    Command::WriteZeroes,
    Command::BlockStatus,
];

/// An export that can do everything.
fn able() -> ExportLimits {
    ExportLimits {
        size_bytes: SIZE,
        flags: TransmissionFlags::from_bits(0x0fff).without(TransmissionFlags::READ_ONLY),
        block_sizes: BlockSizes::default(),
        has_contexts: true,
    }
}

fn without(flags: TransmissionFlags) -> ExportLimits {
    ExportLimits {
        flags: able().flags.without(flags),
        ..able()
    }
}

fn request(command: Command, offset_bytes: u64, len_bytes: u64) -> Request {
    Request {
        cookie: 0x0123_4567_89ab_cdef,
        command,
        flags: CommandFlags::NONE,
        offset_bytes,
        len_bytes,
    }
}

fn flagged(command: Command, flags: CommandFlags) -> Request {
    let len = if command == Command::Flush { 0 } else { 4096 };
    Request {
        flags,
        ..request(command, 0, len)
    }
}

#[test]
fn a_header_has_the_layout_of_the_protocol() {
    let mut write = request(Command::Write, 0x1122_3344_5566_7788, 0x99aa_bbcc);
    write.flags = CommandFlags::FUA;
    let bytes = b"\x25\x60\x95\x13\0\x01\0\x01\x01\x23\x45\x67\x89\xab\xcd\xef\
                  \x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc";
    assert_eq!(write.encode(HeaderMode::Compact)[..], bytes[..]);
    let mut longer = bytes.to_vec();
    longer.extend_from_slice(b"data");
    let decoded = Request::decode(HeaderMode::Compact, &longer);
    assert_eq!(decoded, Ok(Some((write, 28))));
    for cut in 0..28 {
        assert_eq!(
            Request::decode(HeaderMode::Compact, &bytes[..cut]),
            Ok(None)
        );
    }
}

#[test]
fn bad_magic_hangs_up_at_the_fourth_byte() {
    let error = Request::decode(HeaderMode::Compact, b"GET /").unwrap_err();
    assert!(matches!(
        error,
        ProtocolError::BadMagic {
            found: 0x4745_5420,
            ..
        }
    ));
}

#[test]
fn an_extended_header_has_the_layout_of_the_protocol() {
    let mut zeroes = request(
        Command::WriteZeroes,
        0x1122_3344_5566_7788,
        0x99aa_bbcc_ddee_ff00,
    );
    zeroes.flags = CommandFlags::FUA;
    let bytes = b"\x21\xe4\x1c\x71\0\x01\0\x06\x01\x23\x45\x67\x89\xab\xcd\xef\
                  \x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff\0";
    assert_eq!(zeroes.encode(HeaderMode::Extended)[..], bytes[..]);
    let decoded = Request::decode(HeaderMode::Extended, bytes);
    assert_eq!(decoded, Ok(Some((zeroes, 32))));
    for cut in 0..32 {
        let decoded = Request::decode(HeaderMode::Extended, &bytes[..cut]);
        assert_eq!(decoded, Ok(None), "{cut}");
    }
    assert!(Request::decode(HeaderMode::Compact, bytes).is_err());
}

#[test]
fn an_extended_write_says_on_the_wire_that_data_follows() {
    let write = request(Command::Write, 0, 512);
    let mut bytes = write.encode(HeaderMode::Extended);
    assert_eq!(bytes[4..6], [0, 0x20]);
    let decoded = Request::decode(HeaderMode::Extended, &bytes);
    assert_eq!(decoded, Ok(Some((write, 32))));
    // One without the flag is taken for what it must mean.
    bytes = request(Command::Trim, 0, 512).encode(HeaderMode::Extended);
    let mut bare = bytes.to_vec();
    bare[7] = 1;
    assert_eq!(
        Request::decode(HeaderMode::Extended, &bare),
        Ok(Some((write, 32)))
    );
}

#[test]
fn commands_keep_their_numbers() {
    for number in (0..20).chain([u16::MAX]) {
        assert_eq!(Command::from_wire(number).to_wire(), number);
        let known = !matches!(Command::from_wire(number), Command::Unknown(_));
        assert_eq!(known, number <= 7, "command {number}");
    }
}

#[test]
fn only_writes_are_followed_by_data() {
    for number in 0..20 {
        let command = Command::from_wire(number);
        let want = if command == Command::Write { 77 } else { 0 };
        let compact = HeaderMode::Compact;
        assert_eq!(request(command, 0, 77).payload_bytes(compact), want);
        let claims = Request {
            flags: CommandFlags::PAYLOAD_LEN,
            ..request(command, 0, 77)
        };
        assert_eq!(claims.payload_bytes(compact), want);
        assert_eq!(claims.payload_bytes(HeaderMode::Extended), 77);
        assert!(
            claims.check(&able()).is_err() || command == Command::Disc,
            "nobody takes the flag as it stands"
        );
    }
    let refused = request(Command::Write, u64::MAX, u64::from(u32::MAX));
    assert_eq!(refused.check(&able()), Err(Errno::Inval));
    let mode = HeaderMode::Compact;
    assert_eq!(refused.payload_bytes(mode), u64::from(u32::MAX));
}

#[test]
fn all_commands_pass_within_the_export() {
    for command in DATA {
        assert_eq!(request(command, 0, 512).check(&able()), Ok(()));
        assert_eq!(request(command, SIZE - 1, 1).check(&able()), Ok(()));
        assert_eq!(request(command, 7, 13).check(&able()), Ok(()));
    }
    assert_eq!(request(Command::Flush, 0, 0).check(&able()), Ok(()));
    assert_eq!(request(Command::Disc, 0, 0).check(&able()), Ok(()));
}

#[test]
fn past_the_end_is_enospc_for_writes_and_einval_otherwise() {
    let places = [
        (SIZE, 1),
        (SIZE - 1, 2),
        (SIZE + 1, 0),
        (1 << 40, 512),
        (u64::MAX - 511, 512),
        (u64::MAX, 1),
        (1 << 63, 512),
    ];
    for (offset, len) in places {
        let outside = |command| request(command, offset, len).check(&able());
        assert_eq!(outside(Command::Read), Err(Errno::Inval));
        assert_eq!(outside(Command::Write), Err(Errno::NoSpc));
        assert_eq!(outside(Command::WriteZeroes), Err(Errno::NoSpc));
        assert_eq!(outside(Command::Trim), Err(Errno::Inval));
        assert_eq!(outside(Command::Cache), Err(Errno::Inval));
        assert_eq!(outside(Command::BlockStatus), Err(Errno::Inval));
    }
}

#[test]
fn reads_and_writes_stop_at_32_mib_others_at_the_end() {
    for command in [Command::Read, Command::Write] {
        assert_eq!(request(command, 0, MAX).check(&able()), Ok(()));
        let over = request(command, 0, MAX + 1);
        assert_eq!(over.check(&able()), Err(Errno::Inval));
    }
    for command in [
        Command::Trim,
        Command::Cache,
        Command::WriteZeroes,
        Command::BlockStatus,
    ] {
        assert_eq!(request(command, 0, SIZE).check(&able()), Ok(()));
    }
}

#[test]
fn a_smaller_advertised_maximum_holds() {
    let mut limits = able();
    limits.block_sizes.maximum_bytes = 65536;
    assert_eq!(request(Command::Read, 0, 65536).check(&limits), Ok(()));
    assert_eq!(
        request(Command::Read, 0, 65537).check(&limits),
        Err(Errno::Inval)
    );
    limits.block_sizes.maximum_bytes = u32::MAX;
    assert_eq!(
        request(Command::Read, 0, MAX + 1).check(&limits),
        Err(Errno::Inval)
    );
}

#[test]
fn the_minimum_block_size_holds_for_offset_and_length() {
    let mut limits = able();
    limits.block_sizes.minimum_bytes = 4096;
    for command in DATA {
        assert_eq!(request(command, 8192, 4096).check(&limits), Ok(()));
        for (offset, len) in [(512, 4096), (0, 512), (4095, 1)] {
            let crooked = request(command, offset, len);
            assert_eq!(crooked.check(&limits), Err(Errno::Inval));
        }
    }
}

#[test]
fn length_zero_passes_except_for_block_status() {
    for command in DATA {
        let empty = request(command, SIZE, 0).check(&able());
        let want = match command {
            Command::BlockStatus => Err(Errno::Inval),
            _ => Ok(()),
        };
        assert_eq!(empty, want, "{command:?}");
    }
}

#[test]
fn a_read_only_export_refuses_changes_with_eperm() {
    let mut limits = able();
    limits.flags = limits.flags | TransmissionFlags::READ_ONLY;
    for command in DATA {
        let want = if command.modifies() {
            Err(Errno::Perm)
        } else {
            Ok(())
        };
        assert_eq!(request(command, 0, 512).check(&limits), want);
    }
    assert_eq!(request(Command::Flush, 0, 0).check(&limits), Ok(()));
    let past_end = request(Command::Write, SIZE, 512);
    assert_eq!(past_end.check(&limits), Err(Errno::Perm));
    limits.flags = TransmissionFlags::HAS_FLAGS | TransmissionFlags::READ_ONLY;
    let trim = request(Command::Trim, 0, 512);
    assert_eq!(trim.check(&limits), Err(Errno::Perm), "also if not offered");
}

#[test]
fn commands_that_were_not_offered_are_einval() {
    for (command, flag) in [
        (Command::Flush, TransmissionFlags::SEND_FLUSH),
        (Command::Trim, TransmissionFlags::SEND_TRIM),
        (Command::Cache, TransmissionFlags::SEND_CACHE),
        (Command::WriteZeroes, TransmissionFlags::SEND_WRITE_ZEROES),
    ] {
        let request = request(command, 0, 0);
        assert_eq!(request.check(&able()), Ok(()));
        assert_eq!(request.check(&without(flag)), Err(Errno::Inval));
    }
    let mut limits = able();
    limits.has_contexts = false;
    let status = request(Command::BlockStatus, 0, 512);
    assert_eq!(status.check(&limits), Err(Errno::Inval));
}

#[test]
fn unknown_commands_are_einval() {
    for number in [8, 9, 100, 0x7fff, u16::MAX] {
        let unknown = request(Command::Unknown(number), 0, 512);
        assert_eq!(unknown.check(&able()), Err(Errno::Inval));
    }
}

/// Row is the command, column the flag bit; `x` means taken.
#[test]
fn each_command_takes_its_flags_and_no_other() {
    let rows = [
        //FHDO Z (FUA, no hole, DF, one, fast zero), then unknown bits
        (Command::Read, "x.x..."),
        (Command::Write, "x....."),
        (Command::Flush, "x....."),
        (Command::Trim, "x....."),
        (Command::Cache, "x....."),
        (Command::WriteZeroes, "xx..x."),
        (Command::BlockStatus, "x..x.."),
    ];
    for (command, want) in rows {
        let mark = |bit: u16| {
            let flags = CommandFlags::from_bits(1 << bit);
            match flagged(command, flags).check(&able()) {
                Ok(()) => 'x',
                Err(Errno::Inval) => '.',
                Err(other) => panic!("{other:?}"),
            }
        };
        let drawn: String = [0, 1, 2, 3, 4, 15].into_iter().map(mark).collect();
        assert_eq!(drawn, want, "{command:?}");
    }
}

#[test]
fn flags_that_were_not_offered_are_einval() {
    for (command, flag, needs) in [
        (
            Command::Write,
            CommandFlags::FUA,
            TransmissionFlags::SEND_FUA,
        ),
        (Command::Read, CommandFlags::DF, TransmissionFlags::SEND_DF),
        (
            Command::WriteZeroes,
            CommandFlags::FAST_ZERO,
            TransmissionFlags::SEND_FAST_ZERO,
        ),
    ] {
        let request = flagged(command, flag);
        assert_eq!(request.check(&able()), Ok(()));
        assert_eq!(request.check(&without(needs)), Err(Errno::Inval));
    }
    let all = CommandFlags::FUA | CommandFlags::NO_HOLE | CommandFlags::FAST_ZERO;
    assert_eq!(flagged(Command::WriteZeroes, all).check(&able()), Ok(()));
}

#[test]
fn a_flush_of_a_range_is_einval_and_disc_always_passes() {
    assert_eq!(
        request(Command::Flush, 0, 1).check(&able()),
        Err(Errno::Inval)
    );
    assert_eq!(
        request(Command::Flush, 512, 0).check(&able()),
        Err(Errno::Inval)
    );
    let mut odd = request(Command::Disc, u64::MAX, 7);
    odd.flags = CommandFlags::from_bits(u16::MAX);
    assert_eq!(odd.check(&able()), Ok(()));
}

#[test]
fn covers_tells_what_lies_within() {
    let read = request(Command::Read, 1000, 100);
    for (offset, len) in [(1000, 100), (1000, 0), (1099, 1), (1100, 0)] {
        assert!(read.covers(offset, len));
    }
    for (offset, len) in [
        (999, 1),
        (1000, 101),
        (1100, 1),
        (u64::MAX, 1),
        (1000, u64::MAX),
    ] {
        assert!(!read.covers(offset, len));
    }
}
