//! Which context a request runs on, if there are several: the one that has the fewest.

use aio::Handle;

/// The contexts that an engine deals its requests out to, and how many each of them has. None, for a job that
/// works on its own context only.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    contexts: Vec<Context>,
}

#[derive(Debug)]
struct Context {
    /// `None` once it is closed.
    handle: Option<Handle>,
    in_flight: u32,
}

/// Where a request was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// To the context of the job.
    Own,
    /// To one of the list.
    Listed(usize),
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LaneEnd {
    Done,
    /// Its context was closed, and dropped it.
    Closed,
}

impl Lanes {
    pub(super) fn new(handles: Vec<Handle>) -> Self {
        let contexts = handles.into_iter().map(|handle| Context {
            handle: Some(handle),
            in_flight: 0,
        });
        Self {
            contexts: contexts.collect(),
        }
    }

    /// Chooses a context for one more request: `own`, that of the job, if there is no other.
    pub(super) fn take(&mut self, own: &Handle) -> (Lane, Handle) {
        let open = self.contexts.iter_mut().enumerate();
        let open = open.filter_map(|(at, context)| {
            let handle = context.handle.clone()?;
            Some((at, &mut context.in_flight, handle))
        });
        match open.min_by_key(|(_, in_flight, _)| **in_flight) {
            Some((at, in_flight, handle)) => {
                *in_flight += 1;
                (Lane::Listed(at), handle)
            }
            None => (Lane::Own, own.clone()),
        }
    }

    /// A request has ended. A context that is closed gets none any more.
    pub(super) fn give_back(&mut self, lane: Lane, end: LaneEnd) {
        let Lane::Listed(at) = lane else { return };
        let context = &mut self.contexts[at];
        context.in_flight -= 1;
        if end == LaneEnd::Closed {
            context.handle = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use aio::{AioContext, Config};

    use super::*;

    #[test]
    fn requests_go_where_the_fewest_are_and_never_to_a_closed_context() {
        let contexts = [(); 3].map(|()| AioContext::new(Config::default()).unwrap());
        let [own, first, second] = &contexts;
        let own = own.handle();
        let mut lanes = Lanes::new(vec![first.handle().clone(), second.handle().clone()]);
        let (one, two) = (lanes.take(own).0, lanes.take(own).0);
        assert_eq!((one, two), (Lane::Listed(0), Lane::Listed(1)));
        lanes.give_back(two, LaneEnd::Done);
        assert_eq!(lanes.take(own).0, Lane::Listed(1));
        lanes.give_back(one, LaneEnd::Closed);
        assert_eq!(lanes.take(own).0, Lane::Listed(1));
        lanes.give_back(two, LaneEnd::Closed);
        let (lane, handle) = lanes.take(own);
        assert!(lane == Lane::Own && handle.is_same(own));
    }
}
