//! Putting a filter in and taking it out, while requests run.
//!
//! Both ask for permission first, on paper, and again once the node is drained: the graph may have changed
//! while the section was waited for. Between that second look and the change nothing is awaited.

use std::sync::Arc;

use super::{
    Shared,
    state::{Move, State},
};
use crate::{
    drain::DrainedSection,
    error::{BlockError, ErrorKind},
    node::Node,
};

pub(super) async fn insert(
    graph: &Arc<Shared>,
    below: &Node,
    filter: &Node,
) -> Result<(), BlockError> {
    if below.len_bytes() != filter.len_bytes() {
        return Err(BlockError::new(
            ErrorKind::Invalid,
            format!(
                "node '{}' of {} bytes cannot stand for node '{}' of {} bytes",
                filter.name(),
                filter.len_bytes(),
                below.name(),
                below.len_bytes()
            ),
        ));
    }
    move_users(graph, below, |state| state.plan_insertion(below, filter)).await
}

pub(super) async fn remove(graph: &Arc<Shared>, filter: &Node) -> Result<(), BlockError> {
    move_users(graph, filter, |state| state.plan_removal(filter)).await
}

/// Moves the users of `from` as planned, inside a drained section of it.
async fn move_users(
    graph: &Arc<Shared>,
    from: &Node,
    plan: impl Fn(&State) -> Result<Move, BlockError>,
) -> Result<(), BlockError> {
    plan(&graph.lock())?;
    let section = DrainedSection::enter(Arc::clone(graph), std::slice::from_ref(from)).await;
    {
        let mut state = graph.lock();
        let change = plan(&state)?;
        state.commit(&change);
    }
    // Requests that wait here may be wanted elsewhere now, even if another section keeps this node closed.
    from.gate().ask_again();
    graph.tell_parents();
    drop(section);
    Ok(())
}
