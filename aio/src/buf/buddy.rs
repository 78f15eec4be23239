//! The binary buddy allocator that divides slabs into blocks of 4 KiB to 2 MiB (Knuth, TAOCP 1, 2.5).

/// Pages of [`PAGE_BYTES`] bytes in a slab.
pub(super) const SLAB_PAGES: u32 = 512;
/// Bytes in a page, the smallest block.
pub(super) const PAGE_BYTES: usize = 4096;
/// Orders of blocks: order `n` has `2^n` pages.
const ORDERS: usize = 10;

/// No page: the end of a list.
const NONE: u32 = u32::MAX;

/// What a page is at the head of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    /// A free block of this order.
    Free(u8),
    /// A block of this order that somebody holds.
    Taken(u8),
    /// Nothing: it lies inside a block.
    Inside,
}

/// A page's place in the list of free blocks of its order; meaningless unless it heads a free block.
#[derive(Clone, Copy, Debug)]
struct Links {
    before: u32,
    after: u32,
}

/// Which blocks of the slabs are free. A block is named by its first page, counted over all slabs.
#[derive(Debug)]
pub(super) struct Buddy {
    pages: Vec<Page>,
    links: Vec<Links>,
    free: [u32; ORDERS],
    bytes_in_use: usize,
}

impl Buddy {
    pub(super) fn new() -> Self {
        Self {
            pages: Vec::new(),
            links: Vec::new(),
            free: [NONE; ORDERS],
            bytes_in_use: 0,
        }
    }

    /// Bytes in blocks that somebody holds.
    pub(super) fn bytes_in_use(&self) -> usize {
        self.bytes_in_use
    }

    /// The order of the smallest block of at least `len` bytes.
    pub(super) fn order_of(len: usize) -> u8 {
        let pages = len.div_ceil(PAGE_BYTES).max(1).next_power_of_two();
        u8::try_from(pages.trailing_zeros()).expect("the logarithm of a usize fits")
    }

    /// Bytes in a block of `order`.
    pub(super) fn block_bytes(order: u8) -> usize {
        PAGE_BYTES << order
    }

    /// Adds one slab, all of it free.
    pub(super) fn add_slab(&mut self) {
        let head = u32::try_from(self.pages.len()).expect("slabs are bounded");
        let pages = self.pages.len() + at(SLAB_PAGES);
        self.pages.resize(pages, Page::Inside);
        self.links.resize(
            pages,
            Links {
                before: NONE,
                after: NONE,
            },
        );
        self.link(head, 9);
    }

    /// Takes a block of `order`, splitting a larger one if need be.
    pub(super) fn take(&mut self, order: u8) -> Option<u32> {
        let found = (order..)
            .zip(&self.free[usize::from(order)..])
            .find(|(_, head)| **head != NONE);
        let (mut have, &block) = found?;
        self.unlink(block);
        while have > order {
            have -= 1;
            self.link(block + (1 << have), have);
        }
        self.pages[at(block)] = Page::Taken(order);
        self.bytes_in_use += Self::block_bytes(order);
        Some(block)
    }

    /// Gives a block back and joins it with its free neighbours.
    pub(super) fn give_back(&mut self, mut block: u32) {
        let Page::Taken(mut order) = self.pages[at(block)] else {
            unreachable!("block {block} is given back once, by its only holder");
        };
        self.bytes_in_use -= Self::block_bytes(order);
        self.pages[at(block)] = Page::Inside;
        while usize::from(order) < ORDERS - 1 {
            let buddy = block ^ (1 << order);
            if self.pages[at(buddy)] != Page::Free(order) {
                break;
            }
            self.unlink(buddy);
            block = block.min(buddy);
            order += 1;
        }
        self.link(block, order);
    }

    fn link(&mut self, block: u32, order: u8) {
        let after = std::mem::replace(&mut self.free[usize::from(order)], block);
        if after != NONE {
            self.links[at(after)].before = block;
        }
        self.links[at(block)] = Links {
            before: NONE,
            after,
        };
        self.pages[at(block)] = Page::Free(order);
    }

    fn unlink(&mut self, block: u32) {
        let Page::Free(order) = self.pages[at(block)] else {
            unreachable!("only free blocks are on a list, and {block} is not one");
        };
        let Links { before, after } = self.links[at(block)];
        match before {
            NONE => self.free[usize::from(order)] = after,
            before => self.links[at(before)].after = after,
        }
        if after != NONE {
            self.links[at(after)].before = before;
        }
        self.pages[at(block)] = Page::Inside;
    }
}

/// A page number as an index.
fn at(page: u32) -> usize {
    usize::try_from(page).expect("a page number fits an index")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::{Buddy, PAGE_BYTES, SLAB_PAGES};

    #[test]
    fn a_slab_taken_in_pages_and_given_back_is_whole_again() {
        let mut buddy = Buddy::new();
        buddy.add_slab();
        let pages: Vec<_> = (0..SLAB_PAGES).map(|_| buddy.take(0).unwrap()).collect();

        assert_eq!(buddy.take(0), None);
        for page in pages {
            buddy.give_back(page);
        }

        assert_eq!(buddy.bytes_in_use(), 0);
        assert!(buddy.take(9).is_some());
    }

    #[test]
    fn the_order_is_that_of_the_next_power_of_two_of_pages() {
        let orders =
            [0, 1, PAGE_BYTES, PAGE_BYTES + 1, 5 * PAGE_BYTES, 2 << 20].map(Buddy::order_of);
        assert_eq!(orders, [0, 0, 0, 1, 3, 9]);
    }

    proptest! {
        /// Blocks that are held never overlap, and all memory comes together again.
        #[test]
        fn held_blocks_never_overlap(steps in prop::collection::vec((any::<bool>(), 0u8..10, any::<prop::sample::Index>()), 1..300)) {
            let mut buddy = Buddy::new();
            buddy.add_slab();
            buddy.add_slab();
            let mut held: Vec<(u32, u8)> = Vec::new();
            for (give, order, which) in steps {
                if give && !held.is_empty() {
                    buddy.give_back(held.swap_remove(which.index(held.len())).0);
                } else if let Some(block) = buddy.take(order) {
                    let range = block..block + (1 << order);
                    let free = |&(other, size): &(u32, u8)| other >= range.end || other + (1 << size) <= range.start;
                    assert!(held.iter().all(free), "{range:?} overlaps one of {held:?}");
                    held.push((block, order));
                }
                let want: usize = held.iter().map(|&(_, order)| Buddy::block_bytes(order)).sum();
                assert_eq!(buddy.bytes_in_use(), want);
            }
            for (block, _) in held {
                buddy.give_back(block);
            }
            assert!(buddy.take(9).is_some() && buddy.take(9).is_some());
        }
    }
}
