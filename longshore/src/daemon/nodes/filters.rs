//! Nodes above others: windows, limits, faults, and what copies on reads and before writes.

use block::{
    ChildRole, Permission, Permissions,
    copy::{CopyOptions, InitialSet},
    nodes::{
        CbwOptions, CopyBeforeWriteNode, CopyOnReadNode, FaultControl, FaultEvent, FaultNode,
        FaultOp, FaultOptions, InjectError, OnCbwError as Breaks, RawNode, RawOptions, SetState,
        SnapshotAccessNode, ThrottleNode,
    },
};
use qmp::QmpError;

use super::{
    open::{Opened, Opening},
    options::{
        BlkdebugEvent, BlkdebugIOType, BlkdebugInjectErrorOptions, BlkdebugSetStateOptions,
        BlockdevOptionsBlkdebug, BlockdevOptionsCbw, BlockdevOptionsCor,
        BlockdevOptionsGenericFormat, BlockdevOptionsRaw, BlockdevOptionsThrottle, OnCbwError,
    },
};
use crate::daemon::{bitmaps, error::IntoQmp};

const SECTOR_BYTES: u64 = 512;

pub(super) async fn raw(
    opening: &mut Opening<'_>,
    raw: BlockdevOptionsRaw,
) -> Result<Opened, QmpError> {
    let builder = opening.build()?;
    let is_window = raw.offset.is_some() || raw.size.is_some();
    let options = RawOptions {
        offset_bytes: not_negative("offset", raw.offset)?.unwrap_or(0),
        len_bytes: not_negative("size", raw.size)?,
    };
    let below = opening.child("file", raw.file).await?;
    check_window(options, below.len_bytes())?;
    // A node that shows all of its child may stand for it; one that shows a part may not.
    let (role, permissions) = match (is_window, opening.common.node.read_only) {
        (false, _) => (ChildRole::Filtered, Permissions::IDLE),
        (true, true) => (ChildRole::Data, reading()),
        (true, false) => {
            let uses = [Permission::ConsistentRead, Permission::Write];
            (ChildRole::Data, Permissions::uses(&uses))
        }
    };
    let child = builder.attach(&below, "file", role, permissions);
    let driver =
        RawNode::new(child.map_err(IntoQmp::into_qmp)?, options).map_err(IntoQmp::into_qmp)?;
    let filename = match is_window {
        true => None,
        false => opening.filename_of(&below),
    };
    Ok(Opened {
        node: builder.finish(driver),
        filename,
    })
}

pub(super) async fn throttle(
    opening: &mut Opening<'_>,
    throttle: BlockdevOptionsThrottle,
) -> Result<Opened, QmpError> {
    let builder = opening.build()?;
    let group = throttle.throttle_group;
    let below = opening.child("file", throttle.file).await?;
    let found = opening.daemon.objects.throttle_group(&group);
    let group = found
        .ok_or_else(|| QmpError::generic(format!("Throttle group '{group}' does not exist")))?;
    let child = builder.attach(&below, "file", ChildRole::Filtered, Permissions::IDLE);
    let child = child.map_err(IntoQmp::into_qmp)?;
    Ok(Opened::without_file(
        builder.finish(ThrottleNode::new(child, &group)),
    ))
}

pub(super) async fn copy_on_read(
    opening: &mut Opening<'_>,
    cor: BlockdevOptionsCor,
) -> Result<Opened, QmpError> {
    let below = opening.child("file", cor.file).await?;
    let graph = opening.graph();
    let bottom = cor.bottom.map(|name| {
        let found = graph.node(&name);
        found.map_err(|_| QmpError::generic(format!("Bottom node '{name}' not found")))
    });
    let bottom = bottom.transpose()?;
    let made = CopyOnReadNode::add_to(graph, opening.name.as_deref(), &below, bottom.as_ref());
    let node = opening
        .set_options(made.map_err(IntoQmp::into_qmp)?)
        .await?;
    Ok(Opened::without_file(node))
}

pub(super) async fn copy_before_write(
    opening: &mut Opening<'_>,
    cbw: BlockdevOptionsCbw,
) -> Result<Opened, QmpError> {
    let source = opening.child("file", cbw.file).await?;
    let target = opening.child("target", cbw.target).await?;
    let initial = match cbw.bitmap {
        None => InitialSet::All,
        Some(bitmap) => {
            let bitmap = bitmaps::named(opening.daemon, bitmap)?;
            let found = bitmap.node.bitmaps().find(&bitmap.name);
            let content = found.and_then(|found| found.snapshot());
            InitialSet::Bitmap(content.map_err(IntoQmp::into_qmp)?)
        }
    };
    let timeout_s = cbw.cbw_timeout.filter(|seconds| *seconds > 0);
    let options = CbwOptions {
        copy: CopyOptions {
            cluster_bytes_min: cbw.min_cluster_size.map_or(0, |size| size.0),
            initial,
            ..CopyOptions::default()
        },
        on_cbw_error: match cbw.on_cbw_error {
            None | Some(OnCbwError::BreakGuestWrite) => Breaks::BreakGuestWrite,
            Some(OnCbwError::BreakSnapshot) => Breaks::BreakSnapshot,
        },
        timeout_ns: timeout_s.map(|seconds| u64::from(seconds) * 1_000_000_000),
    };
    let (graph, name) = (opening.graph(), opening.name.as_deref());
    let made = CopyBeforeWriteNode::add_to(graph, name, (&source, &target), options);
    let (node, _handle) = made.map_err(IntoQmp::into_qmp)?;
    let node = opening.set_options(node).await?;
    Ok(Opened::without_file(node))
}

pub(super) async fn snapshot_access(
    opening: &mut Opening<'_>,
    access: BlockdevOptionsGenericFormat,
) -> Result<Opened, QmpError> {
    let below = opening.child("file", access.file).await?;
    let made = SnapshotAccessNode::add_to(opening.graph(), opening.name.as_deref(), &below);
    let node = opening
        .set_options(made.map_err(IntoQmp::into_qmp)?)
        .await?;
    Ok(Opened::without_file(node))
}

pub(super) async fn blkdebug(
    opening: &mut Opening<'_>,
    debug: BlockdevOptionsBlkdebug,
) -> Result<Opened, QmpError> {
    if debug.config.is_some() {
        return Err(QmpError::generic("Rules in a file are not supported"));
    }
    let builder = opening.build()?;
    let options = fault_options(&debug)?;
    let below = opening.child("image", debug.image).await?;
    let child = builder.attach(&below, "image", ChildRole::Filtered, Permissions::IDLE);
    let child = child.map_err(IntoQmp::into_qmp)?;
    let driver = FaultNode::with_options(child, FaultControl::default(), options);
    Ok(Opened::without_file(
        builder.finish(driver.map_err(IntoQmp::into_qmp)?),
    ))
}

fn fault_options(debug: &BlockdevOptionsBlkdebug) -> Result<FaultOptions, QmpError> {
    let limit = |name, value: Option<i64>| {
        let value = not_negative(name, value)?.unwrap_or(0);
        u32::try_from(value).map_err(|_| impossible(name, value))
    };
    let rules = debug.inject_error.iter().flatten();
    let states = debug.set_state.iter().flatten();
    Ok(FaultOptions {
        inject_error: rules.map(inject_error).collect::<Result<_, _>>()?,
        set_state: states.map(set_state).collect::<Result<_, _>>()?,
        align: limit("align", debug.align)?,
        max_transfer: limit("max-transfer", debug.max_transfer)?,
        opt_write_zero: limit("opt-write-zero", debug.opt_write_zero)?,
        max_write_zero: limit("max-write-zero", debug.max_write_zero)?,
        opt_discard: limit("opt-discard", debug.opt_discard)?,
        max_discard: limit("max-discard", debug.max_discard)?,
    })
}

fn impossible(name: &str, value: u64) -> QmpError {
    QmpError::generic(format!("Cannot meet constraints with {name} {value}"))
}

fn inject_error(rule: &BlkdebugInjectErrorOptions) -> Result<InjectError, QmpError> {
    let op = rule.iotype.map(|iotype| match iotype {
        BlkdebugIOType::Read => FaultOp::Read,
        BlkdebugIOType::Write => FaultOp::Write,
        BlkdebugIOType::WriteZeroes => FaultOp::WriteZeroes,
        BlkdebugIOType::Discard => FaultOp::Discard,
        BlkdebugIOType::Flush => FaultOp::Flush,
        BlkdebugIOType::BlockStatus => FaultOp::Extent,
    });
    // The reference takes any negative sector for none.
    let sector = rule.sector.and_then(|sector| u64::try_from(sector).ok());
    let errno = rule.errno.unwrap_or(i64::from(libc::EIO));
    Ok(InjectError {
        state: state(rule.state)?,
        op,
        errno: i32::try_from(errno).map_err(|_| out_of_range("errno", errno))?,
        offset_bytes: sector.map(|sector| sector.saturating_mul(SECTOR_BYTES)),
        once: rule.once.unwrap_or(false),
        immediately: rule.immediately.unwrap_or(false),
        ..InjectError::at(event(rule.event))
    })
}

fn set_state(rule: &BlkdebugSetStateOptions) -> Result<SetState, QmpError> {
    Ok(SetState {
        event: event(rule.event),
        state: state(rule.state)?,
        new_state: state(Some(rule.new_state))?,
    })
}

fn state(value: Option<i64>) -> Result<u32, QmpError> {
    let value = value.unwrap_or(0);
    u32::try_from(value).map_err(|_| out_of_range("state", value))
}

fn event(event: BlkdebugEvent) -> FaultEvent {
    match event {
        BlkdebugEvent::None => FaultEvent::Made,
        BlkdebugEvent::ReadAio => FaultEvent::Read,
        BlkdebugEvent::Pwritev | BlkdebugEvent::WriteAio => FaultEvent::Write,
        BlkdebugEvent::PwritevZero => FaultEvent::WriteZeroes,
        BlkdebugEvent::PwritevDone => FaultEvent::Written,
        BlkdebugEvent::FlushToDisk => FaultEvent::Flush,
    }
}

/// Refuses what is no window, in the words that clients know.
fn check_window(window: RawOptions, file_bytes: u64) -> Result<(), QmpError> {
    let offset = window.offset_bytes;
    if offset > file_bytes {
        return Err(QmpError::generic(format!(
            "Offset ({offset}) cannot be greater than size of the containing file ({file_bytes})"
        )));
    }
    let Some(len_bytes) = window.len_bytes else {
        return Ok(());
    };
    if len_bytes > file_bytes - offset {
        return Err(QmpError::generic(format!(
            "The sum of offset ({offset}) and size ({len_bytes}) has to be smaller or equal to the  actual size \
             of the containing file ({file_bytes})"
        )));
    }
    if !len_bytes.is_multiple_of(SECTOR_BYTES) {
        let text = format!("Specified size is not multiple of {SECTOR_BYTES}");
        return Err(QmpError::generic(text));
    }
    Ok(())
}

fn reading() -> Permissions {
    Permissions::uses(&[Permission::ConsistentRead])
}

fn not_negative(name: &str, value: Option<i64>) -> Result<Option<u64>, QmpError> {
    let Some(value) = value else {
        return Ok(None);
    };
    let known = u64::try_from(value).map_err(|_| out_of_range(name, value));
    known.map(Some)
}

fn out_of_range(name: &str, value: i64) -> QmpError {
    let text = format!("Value '{value}' is out of range for parameter '{name}'");
    QmpError::generic(text)
}
