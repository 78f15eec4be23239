//! [`Errno`]: the error numbers NBD knows, and their mapping to numbers.

/// Why a request failed, as NBD tells it.
///
/// The numbers on the wire are fixed by the protocol and happen to be those
/// of Linux.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Errno {
    /// `EPERM`: a write, trim or write-zeroes of a read-only export.
    #[error("operation not permitted")]
    Perm,
    /// `EIO`: the disk below failed.
    #[error("input/output error")]
    Io,
    /// `ENOMEM`: the server has no memory left.
    #[error("cannot allocate memory")]
    NoMem,
    /// `EINVAL`: the request itself is wrong.
    #[error("invalid argument")]
    Inval,
    /// `ENOSPC`: no space left, or a write past the end.
    #[error("no space left on device")]
    NoSpc,
    /// `EOVERFLOW`: only for an unfragmented read that is too long.
    #[error("value too large")]
    Overflow,
    /// `ENOTSUP`: only for write-zeroes that cannot be fast.
    #[error("operation not supported")]
    NotSup,
    /// `ESHUTDOWN`: the server is going away.
    #[error("server is shutting down")]
    Shutdown,
}

impl Errno {
    /// Every error there is.
    pub const ALL: [Errno; 8] = [
        Errno::Perm,
        Errno::Io,
        Errno::NoMem,
        Errno::Inval,
        Errno::NoSpc,
        Errno::Overflow,
        Errno::NotSup,
        Errno::Shutdown,
    ];

    /// The number that stands for this error on the wire.
    pub const fn to_wire(self) -> u32 {
        match self {
            Errno::Perm => 1,
            Errno::Io => 5,
            Errno::NoMem => 12,
            Errno::Inval => 22,
            Errno::NoSpc => 28,
            Errno::Overflow => 75,
            Errno::NotSup => 95,
            Errno::Shutdown => 108,
        }
    }

    /// The error behind a number from the wire.
    ///
    /// A number the protocol does not list counts as [`Errno::Inval`], as the
    /// protocol asks of clients. Zero is no error; callers test it first.
    pub const fn from_wire(number: u32) -> Errno {
        match number {
            1 => Errno::Perm,
            5 => Errno::Io,
            12 => Errno::NoMem,
            28 => Errno::NoSpc,
            75 => Errno::Overflow,
            95 => Errno::NotSup,
            108 => Errno::Shutdown,
            _ => Errno::Inval,
        }
    }

    /// The nearest error to an errno of the Linux kernel.
    ///
    /// What has no equal becomes [`Errno::Io`]: the request was right, the
    /// disk below was not.
    pub const fn from_os(errno: i32) -> Errno {
        match errno {
            1 | 13 | 30 => Errno::Perm, // EPERM, EACCES, EROFS
            12 => Errno::NoMem,
            22 => Errno::Inval,
            27 | 28 | 122 => Errno::NoSpc, // EFBIG, ENOSPC, EDQUOT
            75 => Errno::Overflow,
            95 => Errno::NotSup,
            108 => Errno::Shutdown,
            _ => Errno::Io,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Errno;

    #[test]
    fn every_errno_has_the_number_of_the_protocol_and_comes_back() {
        let numbers = Errno::ALL.map(Errno::to_wire);
        assert_eq!(numbers, [1, 5, 12, 22, 28, 75, 95, 108]);
        assert_eq!(numbers.map(Errno::from_wire), Errno::ALL);
    }

    #[test]
    fn an_unlisted_number_from_the_wire_counts_as_einval() {
        for number in [0, 2, 22, 110, u32::MAX] {
            assert_eq!(Errno::from_wire(number), Errno::Inval);
        }
    }

    #[test]
    fn kernel_errors_map_to_their_nearest_kin() {
        let listed = Errno::ALL.map(|e| Errno::from_os(i32::try_from(e.to_wire()).unwrap()));
        assert_eq!(listed, Errno::ALL);
        for (os, want) in [
            (13, Errno::Perm),
            (30, Errno::Perm),
            (27, Errno::NoSpc),
            (122, Errno::NoSpc),
            (110, Errno::Io),
            (-5, Errno::Io),
        ] {
            assert_eq!(Errno::from_os(os), want, "errno {os}");
        }
    }
}
