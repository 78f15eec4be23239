//! The oracle: all that guests did to a disk, and what its bytes may therefore be.
//!
//! A disk is made of cells, and guests change whole cells. Each write leaves its own number in every
//! cell, so a cell tells who wrote it. What may be there follows from when requests began and ended:
//! a later write, known to have happened, supersedes those that had ended before it began.
//! Moments are ticks, which count beginnings and ends.

use block::ByteRange;

/// Bytes of a cell.
pub(crate) const CELL_BYTES: u64 = 64;

/// A moment, by the count of what has begun and ended.
pub(crate) type Tick = u64;

/// The end of time.
const NEVER: Tick = Tick::MAX;

/// What a request does to its cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Leaves the number of the request.
    Stamp,
    /// Makes them zero.
    Zero,
    /// Makes them zero or leaves them as they are; which, may not be the same for each copy.
    Discard,
}

#[derive(Clone, Debug)]
struct Request {
    change: Change,
    issued: Tick,
    /// When it ended, well or not.
    settled: Tick,
    /// When it was known to have happened.
    happened: Tick,
    /// When it was known to be stable.
    stable: Tick,
}

/// A request that touched a cell.
#[derive(Clone, Copy, Debug)]
struct Touch {
    request: u32,
    /// When somebody who read the cell was told.
    seen: Tick,
}

/// What is in a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Zero,
    Stamp(u32),
    /// Nothing that anybody wrote there.
    Garbage,
}

/// Everything that was done to one disk.
#[derive(Debug)]
pub(crate) struct History {
    len_bytes: u64,
    requests: Vec<Request>,
    cells: Vec<Vec<Touch>>,
    /// Requests that are not stable.
    unstable: Vec<u32>,
}

impl History {
    /// A disk of zeroes.
    pub(crate) fn new(len_bytes: u64) -> Self {
        let cells = usize::try_from(len_bytes / CELL_BYTES).expect("a disk in memory");
        let zero = Request {
            change: Change::Zero,
            issued: 0,
            settled: 0,
            happened: 0,
            stable: 0,
        };
        Self {
            len_bytes,
            requests: vec![zero],
            cells: vec![
                vec![Touch {
                    request: 0,
                    seen: 0
                }];
                cells
            ],
            unstable: Vec::new(),
        }
    }

    pub(crate) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// A request begins, at whole cells.
    pub(crate) fn issue(&mut self, change: Change, range: ByteRange, now: Tick) -> u32 {
        let number = u32::try_from(self.requests.len()).expect("a world ends before that");
        self.requests.push(Request {
            change,
            issued: now,
            settled: NEVER,
            happened: NEVER,
            stable: NEVER,
        });
        for cell in &mut self.cells[cells_of(range)] {
            cell.push(Touch {
                request: number,
                seen: NEVER,
            });
        }
        self.unstable.push(number);
        number
    }

    /// It has ended well.
    pub(crate) fn succeed(&mut self, number: u32, now: Tick) {
        let request = self.request_mut(number);
        request.settled = now;
        request.happened = now;
    }

    /// It has ended with an error, and may have happened in part.
    pub(crate) fn fail(&mut self, number: u32, now: Tick) {
        self.request_mut(number).settled = now;
    }

    /// A flush that began at `began` has ended well.
    pub(crate) fn flushed(&mut self, began: Tick, now: Tick) {
        let requests = &mut self.requests;
        self.unstable.retain(|&number| {
            let request = &mut requests[index(number)];
            let is_stable = request.happened < began;
            if is_stable {
                request.stable = now;
            }
            !is_stable
        });
    }

    /// A request that had asked for stability has ended; if it has ended well, it is stable.
    pub(crate) fn stabilise(&mut self, number: u32, now: Tick) {
        let request = self.request_mut(number);
        if request.happened == NEVER {
            return;
        }
        request.stable = now;
        self.unstable.retain(|&it| it != number);
    }

    fn request_mut(&mut self, number: u32) -> &mut Request {
        &mut self.requests[index(number)]
    }

    /// The bytes that a stamp leaves in `range`.
    pub(crate) fn stamp(number: u32, range: ByteRange) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(usize::try_from(range.len()).expect("fits memory"));
        for cell in range.start() / CELL_BYTES..range.end().div_ceil(CELL_BYTES) {
            let word = u64::from(number) << 32 | cell;
            for _ in 0..CELL_BYTES / 8 {
                bytes.extend_from_slice(&word.to_le_bytes());
            }
        }
        bytes
    }

    /// Checks what a read from `began` to `now` has brought, and learns from it.
    ///
    /// # Errors
    ///
    /// Which cell cannot be as it is.
    pub(crate) fn check_read(
        &mut self,
        (at_bytes, bytes): (u64, &[u8]),
        (began, now): (Tick, Tick),
    ) -> Result<(), String> {
        let first = usize::try_from(at_bytes / CELL_BYTES).expect("a disk in memory");
        for (number, bytes) in (first..).zip(cells(bytes)) {
            let content = content(bytes, number);
            let floor = self.floor(number, |request, touch| {
                request.happened.min(touch.seen) < began
            });
            if !self.can_be(number, content, (floor, now)) {
                return Err(self.explain("read", number, content, floor));
            }
            self.learn(number, content, now);
        }
        Ok(())
    }

    /// Checks that the cells of `range` may have been zero at some time from `began` to `now`.
    ///
    /// # Errors
    ///
    /// Which cell cannot.
    pub(crate) fn check_zero(
        &self,
        range: ByteRange,
        (began, now): (Tick, Tick),
    ) -> Result<(), String> {
        for number in cells_of(range) {
            let floor = self.floor(number, |request, touch| {
                request.happened.min(touch.seen) < began
            });
            if !self.can_be(number, Content::Zero, (floor, now)) {
                return Err(self.explain("extent", number, Content::Zero, floor));
            }
        }
        Ok(())
    }

    /// Checks what a power loss at `now` has left.
    ///
    /// # Errors
    ///
    /// Which cell has lost what was stable.
    pub(crate) fn check_left(&self, bytes: &[u8], now: Tick) -> Result<(), String> {
        for (number, bytes) in cells(bytes).enumerate() {
            let content = content(bytes, number);
            let floor = self.floor(number, |request, _| request.stable <= now);
            if !self.can_be(number, content, (floor, now + 1)) {
                return Err(self.explain("power loss", number, content, floor));
            }
        }
        Ok(())
    }

    /// Checks that a copy that follows the disk has all that was acknowledged before `now`.
    ///
    /// # Errors
    ///
    /// Which cell lacks something.
    pub(crate) fn check_copy(&self, bytes: &[u8], now: Tick) -> Result<(), String> {
        for (number, bytes) in cells(bytes).enumerate() {
            let content = content(bytes, number);
            let floor = self.floor(number, |request, _| request.happened < now);
            if !self.can_be(number, content, (floor, NEVER)) {
                return Err(self.explain("copy", number, content, floor));
            }
        }
        Ok(())
    }

    /// Checks that two disks are equal but for what guests do after `now`, or were doing then.
    ///
    /// # Errors
    ///
    /// Which cell differs.
    pub(crate) fn check_equal(&self, (new, old): (&[u8], &[u8]), now: Tick) -> Result<(), String> {
        let pairs = cells(new).zip(cells(old)).enumerate();
        for (number, (new, _)) in pairs.filter(|(_, (new, old))| new != old) {
            let content = content(new, number);
            if !self.can_be(number, content, (now, NEVER)) {
                return Err(self.explain("switch", number, content, now));
            }
        }
        Ok(())
    }

    /// The moments, of those in `within`, at which the disk may have been as `bytes` are.
    ///
    /// # Errors
    ///
    /// Which cell is of no such moment, or of none that the cells before it may be of.
    pub(crate) fn cut(&self, bytes: &[u8], within: (Tick, Tick)) -> Result<(Tick, Tick), String> {
        let contents = || {
            (0..)
                .zip(cells(bytes))
                .map(|(number, bytes)| (number, content(bytes, number)))
        };
        let is_exact = |(_, content): &(usize, Content)| *content != Content::Zero;
        // What only one request can have left tells most, so it comes first.
        let exact = contents().filter(is_exact);
        let others = contents().filter(|it| !is_exact(it));
        exact
            .chain(others)
            .try_fold(within, |moments, (number, content)| {
                self.narrow(number, content, moments)
            })
    }

    /// Of `moments`, those at which the cell may have been `content`.
    fn narrow(
        &self,
        number: usize,
        content: Content,
        (from, to): (Tick, Tick),
    ) -> Result<(Tick, Tick), String> {
        let spans = self.candidates(number, content).filter_map(|candidate| {
            // Until the first that superseded it is known to have happened.
            let later = self.cells[number].iter().map(|it| (self.of(*it), it.seen));
            let superseded = later
                .filter(|(it, _)| it.issued > candidate.settled && it.change != Change::Discard)
                .map(|(it, seen)| it.happened.min(seen))
                .min();
            let (from, to) = (
                from.max(candidate.issued),
                to.min(superseded.unwrap_or(NEVER)),
            );
            (from <= to).then_some((from, to))
        });
        let hull = spans.reduce(|one, other| (one.0.min(other.0), one.1.max(other.1)));
        hull.ok_or_else(|| {
            let what = format!("copy as of ticks {from} to {to}");
            self.explain(&what, number, content, 0)
        })
    }

    fn of(&self, touch: Touch) -> &Request {
        &self.requests[index(touch.request)]
    }

    /// When the last request began of those that are known to have happened.
    fn floor(&self, cell: usize, is_known: impl Fn(&Request, &Touch) -> bool) -> Tick {
        let known = self.cells[cell].iter().filter(|touch| {
            let request = self.of(**touch);
            request.change != Change::Discard && is_known(request, touch)
        });
        known.map(|touch| self.of(*touch).issued).max().unwrap_or(0)
    }

    /// The requests that may have left `content` in a cell.
    fn candidates(&self, cell: usize, content: Content) -> impl Iterator<Item = &Request> {
        let touches = self.cells[cell].iter();
        let left = touches.filter(move |touch| {
            let change = self.requests[index(touch.request)].change;
            match content {
                Content::Zero => change != Change::Stamp,
                Content::Stamp(number) => touch.request == number && change == Change::Stamp,
                Content::Garbage => false,
            }
        });
        left.map(|touch| self.of(*touch))
    }

    /// Whether something that began before `now`, and had not ended before `floor`, may have left this.
    fn can_be(&self, cell: usize, content: Content, (floor, now): (Tick, Tick)) -> bool {
        let mut candidates = self.candidates(cell, content);
        candidates.any(|it| it.issued < now && it.settled >= floor)
    }

    /// A reader was told what is in a cell.
    fn learn(&mut self, cell: usize, content: Content, now: Tick) {
        let Content::Stamp(number) = content else {
            return;
        };
        let mut touches = self.cells[cell].iter_mut();
        if let Some(touch) = touches.find(|touch| touch.request == number) {
            touch.seen = touch.seen.min(now);
        }
    }

    fn explain(&self, what: &str, cell: usize, content: Content, floor: Tick) -> String {
        let touches = self.cells[cell].iter().rev().take(8);
        let mut known: Vec<String> = touches
            .map(|touch| {
                let it = self.of(*touch);
                let tick = |tick: Tick| match tick {
                    NEVER => "-".to_owned(),
                    tick => tick.to_string(),
                };
                format!(
                    "{:?} {} issued {} ended {} well {} stable {} seen {}",
                    it.change,
                    touch.request,
                    it.issued,
                    tick(it.settled),
                    tick(it.happened),
                    tick(it.stable),
                    tick(touch.seen)
                )
            })
            .collect();
        known.reverse();
        let at = CELL_BYTES * u64::try_from(cell).expect("a disk in memory");
        format!(
            "{what}: {content:?} at {at} cannot be, after tick {floor}: {}",
            known.join("; ")
        )
    }
}

/// The bytes of each cell.
fn cells(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.chunks(usize::try_from(CELL_BYTES).expect("a few bytes"))
}

/// What the bytes of cell `number` are.
fn content(bytes: &[u8], number: usize) -> Content {
    let mut words = bytes.chunks_exact(8).map(|word| {
        let word = word.try_into().expect("eight bytes each");
        u64::from_le_bytes(word)
    });
    let first = words.next().unwrap_or(0);
    if words.any(|word| word != first) {
        return Content::Garbage;
    }
    let place = u32::try_from(number).unwrap_or(u32::MAX);
    match (first, u32::try_from(first >> 32), first & 0xffff_ffff) {
        (0, ..) => Content::Zero,
        (_, Ok(stamp), at) if at == u64::from(place) => Content::Stamp(stamp),
        _ => Content::Garbage,
    }
}

fn cells_of(range: ByteRange) -> std::ops::Range<usize> {
    let cell = |bytes: u64| usize::try_from(bytes).expect("a disk in memory");
    cell(range.start() / CELL_BYTES)..cell(range.end().div_ceil(CELL_BYTES))
}

fn index(number: u32) -> usize {
    usize::try_from(number).expect("requests in memory")
}

#[cfg(test)]
mod tests;
