//! What a user of a node does with it, what it lets others do, and when the two clash.

use std::{collections::BTreeMap, fmt};

use super::child::{ChildKey, ChildRole};
use crate::{
    error::{BlockError, ErrorKind},
    node::NodeId,
};

/// One thing that a user may do with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Permission {
    /// Read, and rely on seeing what was last written.
    ConsistentRead,
    /// Change what readers see.
    Write,
    /// Write without changing what readers see.
    WriteUnchanged,
    /// Change the length.
    Resize,
}

impl Permission {
    /// Every permission.
    pub const ALL: [Self; 4] = [
        Self::ConsistentRead,
        Self::Write,
        Self::WriteUnchanged,
        Self::Resize,
    ];

    fn bit(self) -> u8 {
        match self {
            Self::ConsistentRead => 1,
            Self::Write => 2,
            Self::WriteUnchanged => 4,
            Self::Resize => 8,
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConsistentRead => "consistent read",
            Self::Write => "write",
            Self::WriteUnchanged => "write unchanged",
            Self::Resize => "resize",
        })
    }
}

/// A set of permissions.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct PermissionSet(u8);

impl PermissionSet {
    /// No permission.
    pub const NONE: Self = Self(0);
    /// Every permission.
    pub const ALL: Self = Self(15);

    /// The set of these permissions.
    #[must_use]
    pub fn of(permissions: &[Permission]) -> Self {
        Self(permissions.iter().fold(0, |bits, one| bits | one.bit()))
    }

    /// Whether `permission` is in the set.
    #[must_use]
    pub fn contains(self, permission: Permission) -> bool {
        self.0 & permission.bit() != 0
    }

    /// What is in either set.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both sets.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in this set and not in the other.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether the set has no permission.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn to_bits(self) -> u8 {
        self.0
    }

    pub(crate) fn from_bits(bits: u8) -> Self {
        Self(bits).intersection(Self::ALL)
    }
}

impl fmt::Display for PermissionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for permission in Permission::ALL {
            if self.contains(permission) {
                write!(f, "{separator}{permission}")?;
                separator = ", ";
            }
        }
        Ok(())
    }
}

impl fmt::Debug for PermissionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

/// What one user does with a node, and what it lets the node's other users do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Permissions {
    /// What the user itself does.
    pub uses: PermissionSet,
    /// What others may do at the same time.
    pub shares: PermissionSet,
}

impl Permissions {
    /// Asks for nothing and allows everything.
    pub const IDLE: Self = Self {
        uses: PermissionSet::NONE,
        shares: PermissionSet::ALL,
    };

    /// Uses these permissions and allows everything.
    #[must_use]
    pub fn uses(permissions: &[Permission]) -> Self {
        Self {
            uses: PermissionSet::of(permissions),
            shares: PermissionSet::ALL,
        }
    }

    /// The same, no longer allowing others these permissions.
    #[must_use]
    pub fn unsharing(self, permissions: &[Permission]) -> Self {
        Self {
            shares: self.shares.without(PermissionSet::of(permissions)),
            ..self
        }
    }

    /// Whether the user changes the node in any way.
    pub(super) fn change(self) -> bool {
        let writes = [
            Permission::Write,
            Permission::WriteUnchanged,
            Permission::Resize,
        ];
        writes.iter().any(|write| self.uses.contains(*write))
    }

    /// The needs of two users as one: what either does, what both allow.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            uses: self.uses.union(other.uses),
            shares: self.shares.intersection(other.shares),
        }
    }
}

/// One edge as the rules see it.
#[derive(Clone, Debug)]
pub(super) struct EdgeFacts {
    pub(super) key: ChildKey,
    /// The node whose node driver holds the edge; `None` for users outside the graph.
    pub(super) owner: Option<NodeId>,
    /// The node it points at.
    pub(super) node: NodeId,
    pub(super) role: ChildRole,
    pub(super) declared: Permissions,
    /// How errors call the user and its edge.
    pub(super) parent: String,
    pub(super) child_name: String,
}

/// The edges of a graph, as they are or as somebody would like them.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub(super) edges: Vec<EdgeFacts>,
    /// Nodes that count as used even without a parent: filters put in by a job.
    pub(super) pinned: Vec<NodeId>,
}

/// What each edge really asks for.
pub(super) type Effective = BTreeMap<ChildKey, Permissions>;

/// What has been found out so far: nodes that can be reached on many ways are looked at once.
#[derive(Default)]
struct Known {
    edges: Effective,
    /// What the users of a node ask for together.
    needs: BTreeMap<NodeId, Option<Permissions>>,
}

impl Table {
    /// What each edge really asks for, in a graph without cycles.
    ///
    /// A node that nobody uses asks nothing of its children, so a filter can be prepared beside the
    /// users it will later stand below. A filter does to its child what its own users do to it,
    /// and lets others do only what they allow.
    pub(super) fn effective(&self) -> Effective {
        let mut known = Known::default();
        for edge in &self.edges {
            self.effective_of(edge, &mut known);
        }
        known.edges
    }

    fn effective_of(&self, edge: &EdgeFacts, known: &mut Known) -> Permissions {
        if let Some(&permissions) = known.edges.get(&edge.key) {
            return permissions;
        }
        let permissions = match edge.owner.map(|owner| self.needs_of_users(owner, known)) {
            None => edge.declared,
            Some(None) => Permissions::IDLE,
            Some(Some(users)) if edge.role == ChildRole::Filtered => edge.declared.and(users),
            Some(Some(_)) => edge.declared,
        };
        known.edges.insert(edge.key, permissions);
        permissions
    }

    /// What the users of a node ask for together; `None` when it has none.
    fn needs_of_users(&self, node: NodeId, known: &mut Known) -> Option<Permissions> {
        if let Some(&needs) = known.needs.get(&node) {
            return needs;
        }
        let mut needs = self.pinned.contains(&node).then_some(Permissions::IDLE);
        for edge in self.edges.iter().filter(|edge| edge.node == node) {
            let in_use = match edge.owner {
                None => true,
                Some(owner) => self.needs_of_users(owner, known).is_some(),
            };
            if in_use {
                let users = needs.unwrap_or(Permissions::IDLE);
                needs = Some(users.and(self.effective_of(edge, known)));
            }
        }
        known.needs.insert(node, needs);
        needs
    }

    /// Checks that nobody does what another user of the same node does not allow.
    pub(super) fn check(
        &self,
        effective: &Effective,
        name_of: impl Fn(NodeId) -> String,
    ) -> Result<(), BlockError> {
        let pairs = self.edges.iter().flat_map(|user| {
            let others = self.edges.iter().filter(|other| other.key != user.key);
            others.map(move |other| (user, other))
        });
        for (user, other) in pairs.filter(|(user, other)| user.node == other.node) {
            let (uses, shares) = (effective[&user.key].uses, effective[&other.key].shares);
            if !uses.without(shares).is_empty() {
                let clash = uses.without(shares);
                return Err(conflict(clash, user, other, &name_of(user.node)));
            }
        }
        Ok(())
    }
}

fn conflict(clash: PermissionSet, user: &EdgeFacts, other: &EdgeFacts, node: &str) -> BlockError {
    let who = |edge: &EdgeFacts| {
        format!(
            "{} (uses node '{node}' as '{}' child)",
            edge.parent, edge.child_name
        )
    };
    BlockError::new(
        ErrorKind::PermissionConflict,
        format!(
            "Permission conflict on node '{node}': permissions '{clash}' are both required by {} and unshared by {}.",
            who(user),
            who(other)
        ),
    )
}
