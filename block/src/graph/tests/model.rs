//! Random changes of random small graphs, against a model of permissions that does everything the slow way.

use proptest::{
    prelude::{Just, ProptestConfig, Strategy, any, prop, prop_oneof, proptest},
    sample::Index,
};

use super::*;
use crate::graph::{child::Placement, permission::PermissionSet};

/// One change; indices pick from what is there at the time.
#[derive(Clone, Debug)]
enum Change {
    AddDisk,
    AddFilter(Index, Permissions),
    RemoveNode(Index),
    Attach(Index, Permissions, Placement),
    Detach(Index),
    Insert(Index),
    TakeOut(Index),
    Replace(Index, Index, Option<Index>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Done,
    Refused(ErrorKind),
}

/// An edge of the model. Nodes and edges are numbered in the order in which they came.
#[derive(Clone, Debug)]
struct Edge {
    owner: Option<usize>,
    node: usize,
    declared: Permissions,
    placement: Placement,
}

/// The graph as a list of edges; those with an owner are the filtered children of filters.
#[derive(Clone, Debug, Default)]
struct Model {
    nodes: Vec<usize>,
    pinned: Vec<usize>,
    edges: Vec<Option<Edge>>,
}

impl Model {
    fn edges(&self) -> impl Iterator<Item = (usize, &Edge)> {
        let edges = self.edges.iter().enumerate();
        edges.filter_map(|(key, edge)| Some((key, edge.as_ref()?)))
    }

    fn child(&self, filter: usize) -> Option<usize> {
        let mut owned = self.edges().filter(|(_, edge)| edge.owner == Some(filter));
        owned.next().map(|(_, edge)| edge.node)
    }

    fn is_below(&self, upper: usize, node: usize) -> bool {
        upper == node || self.child(upper).is_some_and(|at| self.is_below(at, node))
    }

    /// What all edges ask for: from nothing upwards, until nothing is to be added any more.
    fn effective(&self) -> Vec<Permissions> {
        let mut known = vec![Permissions::IDLE; self.edges.len()];
        loop {
            let before = known.clone();
            for (key, edge) in self.edges() {
                known[key] = match edge.owner {
                    None => edge.declared,
                    Some(owner) if self.is_used(owner) => self.sum(edge.declared, owner, &before),
                    Some(_) => Permissions::IDLE,
                };
            }
            if known == before {
                return known;
            }
        }
    }

    fn is_used(&self, node: usize) -> bool {
        let mut users = self.edges().filter(|(_, edge)| edge.node == node);
        self.pinned.contains(&node)
            || users.any(|(_, edge)| edge.owner.is_none_or(|owner| self.is_used(owner)))
    }

    fn sum(&self, own: Permissions, filter: usize, known: &[Permissions]) -> Permissions {
        let users = self.edges().filter(|(_, edge)| edge.node == filter);
        users.fold(own, |sum, (key, _)| Permissions {
            uses: sum.uses.union(known[key].uses),
            shares: sum.shares.intersection(known[key].shares),
        })
    }

    fn has_conflict(&self) -> bool {
        let known = self.effective();
        let clash = |(one, a): (usize, &Edge), (other, b): (usize, &Edge)| {
            let is_denied = !known[one].uses.without(known[other].shares).is_empty();
            one != other && a.node == b.node && is_denied
        };
        self.edges()
            .any(|one| self.edges().any(|other| clash(one, other)))
    }

    /// Takes the change over unless it leads to a conflict.
    fn try_change(&mut self, change: impl FnOnce(&mut Self)) -> Verdict {
        let mut changed = self.clone();
        change(&mut changed);
        if changed.has_conflict() {
            return Verdict::Refused(ErrorKind::PermissionConflict);
        }
        *self = changed;
        Verdict::Done
    }

    fn follow(&mut self, from: usize, to: usize) {
        let before = self.clone();
        for edge in self.edges.iter_mut().flatten() {
            let is_under = edge.owner.is_some_and(|owner| before.is_below(to, owner));
            if edge.node == from && edge.placement == Placement::Follows && !is_under {
                edge.node = to;
            }
        }
    }
}

/// The graph and its model, side by side.
struct Pair {
    cx: AioContext,
    graph: Graph,
    model: Model,
    nodes: Vec<Option<Node>>,
    /// Edges by the numbers of the model; those of filters are theirs.
    children: Vec<Option<Child>>,
}

impl Pair {
    fn new() -> Self {
        let mut pair = Self {
            cx: context(),
            graph: Graph::new(),
            model: Model::default(),
            nodes: Vec::new(),
            children: Vec::new(),
        };
        pair.add_disk();
        pair
    }

    fn add_disk(&mut self) {
        let disk = DiskNode(Disk::new(512, 1));
        let node = self.graph.add_node(None, disk).unwrap();
        self.model.nodes.push(self.nodes.len());
        self.nodes.push(Some(node));
    }

    fn add_filter(&mut self, below: usize, declared: Permissions) {
        let builder = self.graph.build_node(None).unwrap();
        let below_node = self.nodes[below].clone().unwrap();
        let child = builder.attach(&below_node, "file", ChildRole::Filtered, declared);
        let filter = builder.finish(PassNode(Arc::new(child.unwrap())));
        self.model.edges.push(Some(Edge {
            owner: Some(self.nodes.len()),
            node: below,
            declared,
            placement: Placement::Follows,
        }));
        self.model.nodes.push(self.nodes.len());
        self.nodes.push(Some(filter));
        self.children.push(None);
    }

    fn remove_node(&mut self, at: usize) -> (Verdict, Verdict) {
        let node = self.nodes[at].clone().unwrap();
        let done = verdict(self.graph.remove_node(&node));
        if self.model.edges().any(|(_, edge)| edge.node == at) {
            return (done, Verdict::Refused(ErrorKind::Busy));
        }
        self.nodes[at] = None;
        self.model.nodes.retain(|node| *node != at);
        self.model.pinned.retain(|node| *node != at);
        for edge in &mut self.model.edges {
            edge.take_if(|edge| edge.owner == Some(at));
        }
        (done, Verdict::Done)
    }

    fn attach(
        &mut self,
        at: usize,
        declared: Permissions,
        placement: Placement,
    ) -> (Verdict, Verdict) {
        let mut user = Attachment::new("user", ChildRole::Primary, declared);
        user.placement = placement;
        let attached = self.graph.attach(self.nodes[at].as_ref().unwrap(), user);
        let edge = Edge {
            owner: None,
            node: at,
            declared,
            placement,
        };
        let wanted = self.model.try_change(|model| model.edges.push(Some(edge)));
        let (child, done) = match attached {
            Ok(child) => (Some(child), Verdict::Done),
            Err(error) => (None, Verdict::Refused(error.kind())),
        };
        if wanted == Verdict::Done {
            self.children.push(child);
        }
        (done, wanted)
    }

    fn insert(&mut self, filter: usize) -> (Verdict, Verdict) {
        let Some(below) = self.model.child(filter) else {
            return (Verdict::Done, Verdict::Done);
        };
        let [from, to] = [below, filter].map(|at| self.nodes[at].clone().unwrap());
        let done = self.cx.block_on(self.graph.insert_filter(&from, &to));
        let wanted = self.model.try_change(|model| {
            model.follow(below, filter);
            model.pinned.push(filter);
        });
        (verdict(done), wanted)
    }

    fn take_out(&mut self, filter: usize) -> (Verdict, Verdict) {
        let node = self.nodes[filter].clone().unwrap();
        let done = verdict(self.cx.block_on(self.graph.remove_filter(&node)));
        let Some(below) = self.model.child(filter) else {
            return (done, Verdict::Refused(ErrorKind::Invalid));
        };
        let wanted = self.model.try_change(|model| {
            let edges = model.edges.iter_mut().flatten();
            for edge in edges.filter(|edge| edge.node == filter) {
                edge.node = below;
            }
            model.pinned.retain(|node| *node != filter);
        });
        (done, wanted)
    }

    fn replace(
        &mut self,
        (from, to): (usize, usize),
        leaving: Option<usize>,
    ) -> (Verdict, Verdict) {
        let nodes = [from, to].map(|at| self.nodes[at].clone().unwrap());
        let children: Vec<&Child> = leaving
            .and_then(|key| self.children[key].as_ref())
            .into_iter()
            .collect();
        let checked = self.graph.check_replace(&nodes[0], &nodes[1], &children);
        let replacing = self.graph.replace_node(&nodes[0], &nodes[1], &children);
        let done = verdict(self.cx.block_on(replacing));
        assert_eq!(verdict(checked), done);
        if from == to {
            return (done, Verdict::Refused(ErrorKind::Invalid));
        }
        let wanted = self.model.try_change(|model| {
            if let Some(key) = leaving {
                model.edges[key] = None;
            }
            model.follow(from, to);
            model.pinned.retain(|node| *node != from);
        });
        if let Some(key) = leaving.filter(|_| wanted == Verdict::Done) {
            self.children[key] = None;
        }
        (done, wanted)
    }

    fn apply(&mut self, change: &Change) {
        let at = |index: &Index| self.model.nodes[index.index(self.model.nodes.len())];
        let held: Vec<_> = (0..self.children.len())
            .filter(|&key| self.children[key].is_some())
            .collect();
        let user = |index: &Index| (!held.is_empty()).then(|| held[index.index(held.len())]);
        let (done, wanted) = match change {
            Change::AddDisk => {
                self.add_disk();
                (Verdict::Done, Verdict::Done)
            }
            Change::AddFilter(below, declared) => {
                let below = at(below);
                self.add_filter(below, *declared);
                (Verdict::Done, Verdict::Done)
            }
            Change::RemoveNode(index) if self.model.nodes.len() > 1 => self.remove_node(at(index)),
            Change::RemoveNode(_) => return,
            Change::Attach(index, declared, placement) => {
                self.attach(at(index), *declared, *placement)
            }
            Change::Detach(index) => {
                if let Some(key) = user(index) {
                    self.children[key] = None;
                    self.model.edges[key] = None;
                }
                (Verdict::Done, Verdict::Done)
            }
            Change::Insert(index) => self.insert(at(index)),
            Change::TakeOut(index) => self.take_out(at(index)),
            Change::Replace(from, to, leaving) => {
                let leaving = leaving.as_ref().and_then(user);
                self.replace((at(from), at(to)), leaving)
            }
        };
        assert_eq!(done, wanted, "{change:?}");
    }
}

impl Pair {
    /// Everybody holds the node that he should, may do what he should, and gets through to the storage.
    fn check(&self) {
        let known = self.model.effective();
        let name = |at: usize| self.nodes[at].as_ref().map(|node| node.name().to_owned());
        let wanted = self.model.edges();
        let wanted = wanted.map(|(key, edge)| (name(edge.node).unwrap(), known[key]));
        let found = self.graph.edges().into_iter();
        let found = found.map(|edge| (edge.node, edge.permissions));
        assert_eq!(found.collect::<Vec<_>>(), wanted.collect::<Vec<_>>());
        for (key, child) in self.children.iter().enumerate() {
            let Some(child) = child else { continue };
            let flags = RequestFlags::default();
            let written = child.write(&self.cx, 0, buffer(1, 1), flags);
            let written = self.cx.block_on(written).1.is_ok();
            assert_eq!(written, known[key].uses.contains(WRITE));
        }
    }
}

fn verdict(result: Result<(), BlockError>) -> Verdict {
    match result {
        Ok(()) => Verdict::Done,
        Err(error) => Verdict::Refused(error.kind()),
    }
}

/// Often generous, or nobody could be beside anybody.
fn permissions() -> impl Strategy<Value = Permissions> {
    let bits = (any::<u8>(), any::<u8>(), any::<[u8; 3]>());
    bits.prop_map(|(a, b, shares)| Permissions {
        uses: PermissionSet::from_bits(a & b),
        shares: PermissionSet::from_bits(shares[0] | shares[1] | shares[2]),
    })
}

fn change() -> impl Strategy<Value = Change> {
    let placement = prop_oneof![3 => Just(Placement::Follows), 1 => Just(Placement::Stays)];
    let index = any::<Index>;
    prop_oneof![
        1 => Just(Change::AddDisk),
        3 => (index(), permissions()).prop_map(|(at, wants)| Change::AddFilter(at, wants)),
        1 => index().prop_map(Change::RemoveNode),
        5 => (index(), permissions(), placement)
            .prop_map(|(at, wants, placement)| Change::Attach(at, wants, placement)),
        1 => index().prop_map(Change::Detach),
        4 => index().prop_map(Change::Insert),
        2 => index().prop_map(Change::TakeOut),
        3 => (index(), index(), prop::option::of(index()))
            .prop_map(|(from, to, leaving)| Change::Replace(from, to, leaving)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_changes_does_what_the_model_says(
        changes in prop::collection::vec(change(), 1..25),
    ) {
        let mut pair = Pair::new();
        for change in &changes {
            pair.apply(change);
            pair.check();
        }
    }
}
