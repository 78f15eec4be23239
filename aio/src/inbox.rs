//! A lock-free list that carries shared nodes from any thread to the home thread (Treiber, 1986).
//!
//! A node is what is posted again and again: a bottom half, a task's wake-up, a timer. It carries a
//! word of bits that say what is wanted of it. Raising bits puts the node on the list unless it is
//! there already, so that a node is on the list once however often it was raised, and raising
//! allocates nothing:
//!
//! ```text
//!   raise (any thread)                        home thread
//!   ------------------                        -----------
//!   before = bits | wanted | LISTED           take the whole list at once, oldest first
//!   before had LISTED: done                   for each node, when its turn comes:
//!   else push                                    wanted = bits, cleared with LISTED
//!                                                act on `wanted`
//! ```
//!
//! The list owns one count of each node on it. Only whoever sets `LISTED` pushes, and only the
//! [`Listed`] that the home thread got out of the list clears it, so a node's `next` has one owner at
//! any time. What was written before a raise is visible to whoever takes the bits.

// UNSAFETY: the list keeps counted references as raw pointers between push and take.
#![expect(unsafe_code, reason = "an intrusive list of counted nodes")]

use std::{fmt, ptr, sync::Arc};

use crate::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

/// The node is on the list, or has left it and its turn has not come.
const LISTED: u32 = 1 << 31;

/// Something that can be posted to a home thread again and again.
pub(crate) struct Node<T> {
    bits: AtomicU32,
    /// The node pushed before this one; owned by whoever set `LISTED`.
    next: AtomicPtr<Node<T>>,
    /// What the node stands for.
    pub(crate) what: T,
}

impl<T> Node<T> {
    /// A node that nobody has raised.
    pub(crate) fn new(what: T) -> Self {
        Self {
            bits: AtomicU32::new(0),
            next: AtomicPtr::new(ptr::null_mut()),
            what,
        }
    }

    /// Sets `bits` without posting the node, and returns those that were set before. Any thread.
    pub(crate) fn set(&self, bits: u32) -> u32 {
        debug_assert_eq!(bits & LISTED, 0, "that bit is the list's");
        self.bits.fetch_or(bits, Ordering::AcqRel)
    }

    /// Clears `bits` and returns those that were set before. Any thread.
    pub(crate) fn clear(&self, bits: u32) -> u32 {
        debug_assert_eq!(bits & LISTED, 0, "that bit is the list's");
        self.bits.fetch_and(!bits, Ordering::AcqRel)
    }

    /// The bits that are set now.
    pub(crate) fn bits(&self) -> u32 {
        self.bits.load(Ordering::Acquire)
    }
}

/// A node that has left the list. Until its turn comes it stays where it is, raised however often.
pub(crate) struct Listed<T>(Arc<Node<T>>);

impl<T> Listed<T> {
    /// Begins the node's turn: clears `bits`, returns all that were set, and lets the node be posted anew.
    pub(crate) fn begin(self, bits: u32) -> (Arc<Node<T>>, u32) {
        let before = self.0.bits.fetch_and(!(bits | LISTED), Ordering::AcqRel);
        (self.0, before & !LISTED)
    }

    /// The node.
    pub(crate) fn node(&self) -> &Node<T> {
        &self.0
    }
}

/// Nodes on their way to one home thread.
pub(crate) struct Inbox<T> {
    /// The node pushed last.
    head: AtomicPtr<Node<T>>,
}

impl<T> Inbox<T> {
    pub(crate) fn new() -> Self {
        Self {
            head: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Raises `bits` of `node` and posts it; returns whether it was not on the list yet. Any thread.
    ///
    /// A caller that gets `true` must see to it that the home thread looks.
    pub(crate) fn raise(&self, node: &Arc<Node<T>>, bits: u32) -> bool {
        let before = node.bits.fetch_or(bits | LISTED, Ordering::AcqRel);
        if before & LISTED != 0 {
            return false;
        }
        let pushed = Arc::into_raw(node.clone()).cast_mut();
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            node.next.store(head, Ordering::Relaxed);
            // Release: whoever takes the list sees `next`.
            match self.head.compare_exchange_weak(
                head,
                pushed,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => head = now,
            }
        }
    }

    /// Whether there is nothing to take, as far as this thread can see.
    pub(crate) fn is_empty(&self) -> bool {
        self.head.load(Ordering::Relaxed).is_null()
    }

    /// Takes all nodes that are on the list, oldest first.
    pub(crate) fn take(&self) -> Taken<T> {
        if self.is_empty() {
            return Taken {
                first: ptr::null_mut(),
            };
        }
        let mut rest = self.head.swap(ptr::null_mut(), Ordering::Acquire);
        let mut first = ptr::null_mut();
        while !rest.is_null() {
            // SAFETY: the list holds a count of the node, which is now ours.
            let node = unsafe { &*rest };
            let before = node.next.load(Ordering::Relaxed);
            node.next.store(first, Ordering::Relaxed);
            first = rest;
            rest = before;
        }
        Taken { first }
    }
}

impl<T> Drop for Inbox<T> {
    fn drop(&mut self) {
        drop(self.take());
    }
}

impl<T> fmt::Debug for Inbox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox")
            .field("empty", &self.is_empty())
            .finish()
    }
}

/// Nodes taken from an inbox; those left when it is dropped are let go of, unraisable for good.
pub(crate) struct Taken<T> {
    first: *mut Node<T>,
}

impl<T> Iterator for Taken<T> {
    type Item = Listed<T>;

    fn next(&mut self) -> Option<Listed<T>> {
        if self.first.is_null() {
            return None;
        }
        // SAFETY: the chain owns one count of each of its nodes, made by `Arc::into_raw`.
        let node = unsafe { Arc::from_raw(self.first.cast_const()) };
        self.first = node.next.load(Ordering::Relaxed);
        Some(Listed(node))
    }
}

impl<T> Drop for Taken<T> {
    fn drop(&mut self) {
        for node in &mut *self {
            drop(node);
        }
    }
}

#[cfg(test)]
#[cfg(loom)]
mod loom_tests;
#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        thread,
    };

    use super::{Inbox, Node};

    const WANTED: u32 = 1;

    #[test]
    fn nodes_come_out_once_in_the_order_of_their_first_raise() {
        let inbox = Inbox::new();
        let nodes: Vec<_> = (0..3).map(|at| Arc::new(Node::new(at))).collect();

        assert!(inbox.raise(&nodes[1], WANTED));
        assert!(inbox.raise(&nodes[0], WANTED));
        assert!(!inbox.raise(&nodes[1], 2));

        let taken: Vec<_> = inbox
            .take()
            .map(|listed| listed.begin(WANTED | 2))
            .collect();
        let seen: Vec<_> = taken
            .iter()
            .map(|(node, bits)| (node.what, *bits))
            .collect();
        assert_eq!(seen, [(1, WANTED | 2), (0, WANTED)]);
        assert!(inbox.is_empty() && nodes.iter().all(|node| node.bits() == 0));
    }

    #[test]
    fn a_node_that_waits_for_its_turn_is_not_posted_again() {
        let inbox = Inbox::new();
        let node = Arc::new(Node::new(()));
        inbox.raise(&node, WANTED);
        let listed = inbox.take().next().unwrap();

        assert!(!inbox.raise(&node, WANTED));
        assert!(inbox.is_empty());
        listed.begin(WANTED);
        assert!(inbox.raise(&node, WANTED));
    }

    #[test]
    fn what_is_left_on_a_list_is_freed_with_it() {
        let node = Arc::new(Node::new(()));
        let inbox = Inbox::new();
        inbox.raise(&node, WANTED);
        drop(inbox);
        let inbox = Inbox::new();
        let other = Arc::new(Node::new(()));
        inbox.raise(&other, WANTED);
        drop(inbox.take());

        assert_eq!(
            (Arc::strong_count(&node), Arc::strong_count(&other)),
            (1, 1)
        );
    }

    #[test]
    fn threads_that_raise_the_same_nodes_lose_none() {
        let inbox = Arc::new(Inbox::new());
        let nodes: Vec<_> = (0..4)
            .map(|_| Arc::new(Node::new(AtomicUsize::new(0))))
            .collect();
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let (inbox, nodes) = (inbox.clone(), nodes.clone());
                let raise = move |node: &Arc<Node<AtomicUsize>>| {
                    node.what.fetch_add(1, Ordering::Relaxed);
                    inbox.raise(node, WANTED);
                };
                thread::spawn(move || nodes.iter().cycle().take(5000).for_each(raise))
            })
            .collect();
        let mut seen = 0;
        while seen < 3 * 5000 {
            for listed in inbox.take() {
                let (node, bits) = listed.begin(WANTED);
                assert_eq!(bits, WANTED);
                seen += node.what.swap(0, Ordering::Relaxed);
            }
            thread::yield_now();
        }
        for thread in threads {
            thread.join().unwrap();
        }
        drop(inbox.take());
        assert!(nodes.iter().all(|node| Arc::strong_count(node) == 1));
    }
}
