//! Byte locks by which programs that open the same image see each other.
//!
//! Each permission has a number. Who uses permission `n` holds a shared lock on byte `100 + n`;
//! who does not let others use it holds one on byte `200 + n`. Locks never exclude each other:
//! a user takes its own and then looks whether anybody holds a byte that forbids them. QEMU
//! and its tools do the same with the same numbers, so both see each other. Locks belong to the
//! descriptor, so two nodes of one process see each other too.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use aio::{Fd, sys};

use super::{FileOptions, LockTerm, OnOffAuto, Sharing};
use crate::{
    error::{BlockError, ErrorKind},
    graph::permission::{Permission, PermissionSet, Permissions},
};

const USED_BASE: u64 = 100;
const UNSHARED_BASE: u64 = 200;

/// The image locks of an open file, for as long as it, or a duplicate of its descriptor, stays open.
#[derive(Debug)]
pub(super) struct ImageLocks {
    path: PathBuf,
    locking: OnOffAuto,
    sharing: Sharing,
    /// What whoever opened the file does and forbids, besides the users of the node.
    opener: Permissions,
    held: Mutex<Held>,
}

/// What is locked, and by which descriptor.
#[derive(Debug)]
struct Held {
    file: Fd,
    claims: Claims,
}

/// What one byte stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    /// It is done.
    Uses(Permission),
    /// Others are not to do it.
    Forbids(Permission),
}

/// A set of claims.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Claims {
    uses: PermissionSet,
    forbids: PermissionSet,
}

/// Why locks could not be had.
enum Refusal {
    /// Another program's claim is against this one.
    Conflict(Claim),
    /// Another program has locked the byte as nobody does who knows its meaning.
    Exclusive(Claim),
    /// There are no locks here.
    Unsupported(io::Error),
    System(io::Error),
}

impl ImageLocks {
    /// Takes the locks that are held for as long as the file is open. `None` if it has no locks and need not have them.
    pub(super) fn open(file: &Fd, options: &FileOptions) -> Result<Option<Self>, BlockError> {
        if options.locking == OnOffAuto::Off {
            return Ok(None);
        }
        let locks = Self {
            path: options.path.clone(),
            locking: options.locking,
            sharing: options.sharing,
            opener: opener(options),
            held: Held::by(file.clone()),
        };
        let claim = Claim::Uses(Permission::ConsistentRead);
        let is_supported = is_forbidden_by_other(file.as_fd(), claim);
        match is_supported.and_then(|_| locks.take(Permissions::IDLE)) {
            Ok(()) => Ok(Some(locks)),
            Err(Refusal::Unsupported(_)) if options.locking == OnOffAuto::Auto => Ok(None),
            Err(refusal) => Err(locks.cannot_open(refusal)),
        }
    }

    /// Takes all at once for a file that has no node yet: what is done and allowed is `users`. Where there are no
    /// locks, nobody can be seen.
    pub(super) fn claim(file: &Fd, path: PathBuf, users: Permissions) -> Result<(), BlockError> {
        let locks = Self {
            path,
            locking: OnOffAuto::Auto,
            sharing: Sharing::Readers,
            opener: Permissions::IDLE,
            held: Held::by(file.clone()),
        };
        locks.prepare(users)
    }

    /// Takes what users of the node need to do and allow `next`, and gives nothing back.
    pub(super) fn prepare(&self, next: Permissions) -> Result<(), BlockError> {
        match self.take(next) {
            Ok(()) => Ok(()),
            Err(Refusal::Unsupported(_)) if self.locking == OnOffAuto::Auto => Ok(()),
            Err(refusal) => Err(self.cannot_change(refusal)),
        }
    }

    /// Gives back what nobody needs if the users of the node do and allow `now`.
    pub(super) fn settle(&self, now: Permissions) {
        let wanted = self.claims(now);
        let mut held = self.held();
        let Held { file, claims } = &mut *held;
        for claim in claims.iter().filter(|claim| !wanted.contains(*claim)) {
            // What the system keeps is ours still, and is tried again the next time.
            if sys::unlock_byte(file.as_fd(), claim.offset_bytes()).is_ok() {
                claims.remove(claim);
            }
        }
    }

    /// Has another descriptor of the same file hold all that is held. There is no moment at which nobody does.
    pub(super) fn move_to(&self, next: &Fd) -> Result<(), BlockError> {
        let mut held = self.held();
        for claim in held.claims.iter() {
            // Those of the old descriptor would look like another's, so nobody is asked about them again.
            let locked = sys::lock_byte_shared(next.as_fd(), claim.offset_bytes());
            locked.map_err(|source| self.cannot_change(refusal(source, claim)))?;
        }
        for claim in held.claims.iter() {
            // One that stays goes with the descriptor.
            let _ = sys::unlock_byte(held.file.as_fd(), claim.offset_bytes());
        }
        held.file = next.clone();
        Ok(())
    }

    /// Whether others are kept from writing now.
    pub(super) fn forbid_writes(&self) -> bool {
        self.held()
            .claims
            .contains(Claim::Forbids(Permission::Write))
    }

    /// Takes first and looks afterwards: of two that come at once, at least one sees the other.
    fn take(&self, next: Permissions) -> Result<(), Refusal> {
        let wanted = self.claims(next);
        let mut held = self.held();
        let Held { file, claims } = &mut *held;
        if wanted.iter().all(|claim| claims.contains(claim)) {
            return Ok(());
        }
        for claim in wanted.iter() {
            if claims.contains(claim) {
                continue;
            }
            let locked = sys::lock_byte_shared(file.as_fd(), claim.offset_bytes());
            locked.map_err(|source| refusal(source, claim))?;
            claims.insert(claim);
        }
        for claim in wanted.iter() {
            if is_forbidden_by_other(file.as_fd(), claim)? {
                return Err(Refusal::Conflict(claim));
            }
        }
        Ok(())
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is to lock if the users of the node do and allow `users`.
    fn claims(&self, users: Permissions) -> Claims {
        let all = self.opener.and(users);
        Claims {
            uses: all.uses,
            forbids: match self.sharing {
                Sharing::Readers => PermissionSet::ALL.without(all.shares),
                Sharing::Everyone => PermissionSet::NONE,
            },
        }
    }

    fn cannot_open(&self, refusal: Refusal) -> BlockError {
        let reason = match &refusal {
            Refusal::Conflict(Claim::Uses(permission)) => {
                format!("another program does not share its '{permission}' permission")
            }
            Refusal::Conflict(Claim::Forbids(permission)) => {
                format!("another program has it open with '{permission}' permission")
            }
            Refusal::Exclusive(_) => "another program holds an exclusive lock".to_owned(),
            Refusal::Unsupported(_) | Refusal::System(_) => return self.cannot_change(refusal),
        };
        let what = format!("'{}' is in use: {reason}", self.path.display());
        BlockError::new(ErrorKind::Locked, what)
    }

    fn cannot_change(&self, refusal: Refusal) -> BlockError {
        let path = self.path.display();
        let what = match refusal {
            Refusal::Conflict(Claim::Uses(permission)) => {
                format!("Failed to get \"{permission}\" lock")
            }
            Refusal::Conflict(Claim::Forbids(permission)) => {
                format!("Failed to get shared \"{permission}\" lock")
            }
            Refusal::Exclusive(claim) => format!("Failed to lock byte {}", claim.offset_bytes()),
            Refusal::Unsupported(source) | Refusal::System(source) => {
                return BlockError::io(format!("cannot lock '{path}'"), source);
            }
        };
        let hint = format!("Is another process using the image [{path}]?");
        BlockError::new(ErrorKind::Locked, what).hinting(hint)
    }
}

impl Drop for ImageLocks {
    /// Does not leave it to the closing of the file: a ring or a thread may have that open for a little longer.
    fn drop(&mut self) {
        let held = self.held.get_mut().unwrap_or_else(PoisonError::into_inner);
        for claim in held.claims.iter() {
            let _ = sys::unlock_byte(held.file.as_fd(), claim.offset_bytes());
        }
    }
}

impl Held {
    /// Nothing yet.
    fn by(file: Fd) -> Mutex<Self> {
        Mutex::new(Self {
            file,
            claims: Claims::default(),
        })
    }
}

/// Counts as a user for as long as the file is open, if locks are held that long.
fn opener(options: &FileOptions) -> Permissions {
    if options.lock_term == LockTerm::WhileUsed {
        return Permissions::IDLE;
    }
    let uses: &[_] = match options.read_only {
        true => &[Permission::ConsistentRead],
        false => &[Permission::ConsistentRead, Permission::Write],
    };
    Permissions::uses(uses).unsharing(&[Permission::Write, Permission::Resize])
}

fn is_forbidden_by_other(file: BorrowedFd<'_>, claim: Claim) -> Result<bool, Refusal> {
    let offset_bytes = claim.opposite().offset_bytes();
    sys::byte_locked_by_other(file, offset_bytes).map_err(|source| refusal(source, claim))
}

fn refusal(source: io::Error, claim: Claim) -> Refusal {
    match source.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Refusal::Exclusive(claim),
        Some(libc::EINVAL | libc::ENOLCK | libc::ENOSYS | libc::EOPNOTSUPP) => {
            Refusal::Unsupported(source)
        }
        _ => Refusal::System(source),
    }
}

impl Claim {
    /// Every claim, in the order in which others are asked about them.
    fn all() -> impl Iterator<Item = Self> {
        let uses = Permission::ALL.into_iter().map(Self::Uses);
        uses.chain(Permission::ALL.into_iter().map(Self::Forbids))
    }

    /// What may not be claimed by others at the same time.
    fn opposite(self) -> Self {
        match self {
            Self::Uses(permission) => Self::Forbids(permission),
            Self::Forbids(permission) => Self::Uses(permission),
        }
    }

    fn offset_bytes(self) -> u64 {
        match self {
            Self::Uses(permission) => USED_BASE + number(permission),
            Self::Forbids(permission) => UNSHARED_BASE + number(permission),
        }
    }
}

/// The number by which other programs know the permission.
fn number(permission: Permission) -> u64 {
    match permission {
        Permission::ConsistentRead => 0,
        Permission::Write => 1,
        Permission::WriteUnchanged => 2,
        Permission::Resize => 3,
    }
}

impl Claims {
    fn iter(self) -> impl Iterator<Item = Claim> {
        Claim::all().filter(move |claim| self.contains(*claim))
    }

    fn contains(self, claim: Claim) -> bool {
        match claim {
            Claim::Uses(permission) => self.uses.contains(permission),
            Claim::Forbids(permission) => self.forbids.contains(permission),
        }
    }

    fn insert(&mut self, claim: Claim) {
        let (set, permission) = self.set_of(claim);
        *set = set.union(PermissionSet::of(&[permission]));
    }

    fn remove(&mut self, claim: Claim) {
        let (set, permission) = self.set_of(claim);
        *set = set.without(PermissionSet::of(&[permission]));
    }

    fn set_of(&mut self, claim: Claim) -> (&mut PermissionSet, Permission) {
        match claim {
            Claim::Uses(permission) => (&mut self.uses, permission),
            Claim::Forbids(permission) => (&mut self.forbids, permission),
        }
    }
}
