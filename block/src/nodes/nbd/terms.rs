//! [`Terms`]: what a server said of an export, and what that means for requests.

use nbd::{
    BASE_ALLOCATION, BlockSizes, ClientSession, ExportLimits, MAX_TRANSFER_BYTES, TransmissionFlags,
};

use crate::{
    error::{BlockError, ErrorKind},
    node_driver::Limits,
};

/// Longest range of a request without data; a multiple of every alignment.
const SPAN_BYTES_MAX: u64 = 1 << 30;

/// What all connections of a node agree on.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) limits: ExportLimits,
    pub(super) knows_extents: bool,
    pub(super) read_only: bool,
}

fn knows_extents(session: &ClientSession) -> bool {
    let mut contexts = session.contexts.iter();
    contexts.any(|context| context.name == BASE_ALLOCATION)
}

fn transfer_bytes_max(sizes: BlockSizes) -> u32 {
    let most = sizes.maximum_bytes.min(MAX_TRANSFER_BYTES);
    // The check has seen that the maximum is not below the minimum.
    most / sizes.minimum_bytes * sizes.minimum_bytes
}

impl Terms {
    /// What `session` says, if it can be used.
    pub(super) fn of(session: &ClientSession) -> Result<Self, BlockError> {
        let limits = session.limits;
        let unusable = |what: String| Err(BlockError::new(ErrorKind::Invalid, what));
        let align = u64::from(limits.block_sizes.minimum_bytes);
        if i64::try_from(limits.size_bytes).is_err() {
            return unusable(format!("an export of {} bytes", limits.size_bytes));
        }
        if !limits.size_bytes.is_multiple_of(align) {
            return unusable(format!(
                "the export's length, {} bytes, is no multiple of its block size, {align} bytes",
                limits.size_bytes
            ));
        }
        if transfer_bytes_max(limits.block_sizes) == 0 {
            return unusable("the export takes no requests of whole blocks".to_owned());
        }
        Ok(Self {
            limits,
            knows_extents: knows_extents(session),
            read_only: limits.flags.contains(TransmissionFlags::READ_ONLY),
        })
    }

    /// Whether the server of `session` can stand in for the one that made these terms.
    ///
    /// # Errors
    ///
    /// It serves something else, or less.
    pub(super) fn check(&self, session: &ClientSession) -> Result<(), BlockError> {
        let new = Self::of(session)?;
        let (old_sizes, new_sizes) = (self.limits.block_sizes, new.limits.block_sizes);
        let different = if new.limits.size_bytes != self.limits.size_bytes {
            format!(
                "has {} bytes instead of {}",
                new.limits.size_bytes, self.limits.size_bytes
            )
        } else if new.read_only && !self.read_only {
            "is read-only now".to_owned()
        } else if new_sizes.minimum_bytes > old_sizes.minimum_bytes
            || transfer_bytes_max(new_sizes) < transfer_bytes_max(old_sizes)
        {
            "takes other block sizes".to_owned()
        } else if !new.limits.flags.contains(self.limits.flags)
            || new.knows_extents != self.knows_extents
        {
            "can do less than before".to_owned()
        } else {
            return Ok(());
        };
        let what = format!("the export is not the one it was: it {different}");
        Err(BlockError::new(ErrorKind::Invalid, what))
    }

    pub(super) fn has(&self, flag: TransmissionFlags) -> bool {
        self.limits.flags.contains(flag)
    }

    pub(super) fn node_limits(&self) -> Limits {
        let sizes = self.limits.block_sizes;
        Limits {
            len_bytes: self.limits.size_bytes,
            request_align_bytes: sizes.minimum_bytes,
            transfer_bytes_max: transfer_bytes_max(sizes),
            cluster_bytes: None,
            read_only: self.read_only,
        }
    }

    /// The longest range of a request without data.
    pub(super) fn span_bytes_max(&self) -> u64 {
        SPAN_BYTES_MAX
    }
}
