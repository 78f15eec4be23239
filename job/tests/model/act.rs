//! What a run is made of: jobs of many kinds, and everything that can be done to them.

use job::Trigger;
use proptest::{collection::vec, prelude::*, sample::select};

/// How many jobs there are at a time; each has a place of its own, and the id that goes with it.
pub(crate) const PLACES: usize = 4;
/// The ids of the places.
pub(crate) const IDS: [&str; PLACES] = ["j0", "j1", "j2", "j3"];
/// How many transactions there are at a time, besides those that jobs have for themselves.
pub(crate) const GROUPS: usize = 3;
/// How many acts there are between two fresh worlds.
const ACTS_MAX: usize = 80;
/// How many forgotten jobs are remembered.
pub(crate) const HISTORY_MAX: usize = 5;
/// What a body has to do, in units of its own.
pub(crate) const WORK: u64 = 10;

/// What a body does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Ends well at once.
    EndWell,
    /// Fails with `boom` at once.
    Fail,
    /// Ends well when told; sees a cancel.
    UntilTold,
    /// Fails with `boom` when told; sees a cancel.
    FailWhenTold,
    /// Becomes ready, then ends well when told or at any cancel.
    Converge,
    /// Becomes ready, then fails with `boom` when told or at any cancel.
    ConvergeAndFail,
    /// Sleeps five milliseconds; sees a cancel.
    Sleep,
    /// Has a request in flight that ends when told, whatever comes meanwhile; then ends well.
    Request,
    /// The same, but gives the request up when it is cancelled by force.
    RacedRequest,
    /// As the first, but fails with `boom` even if it was cancelled.
    BadRequest,
}

/// What the driver makes of a cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Veto {
    /// Each cancel is forced.
    Never,
    /// A soft one stays soft while the job is ready.
    WhileReady,
    /// Says that each is soft, which can only be had for one that was not forced.
    Always,
}

/// What the driver makes of `complete`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    /// The body is told to end.
    Takes,
    /// The hook refuses with `not now`.
    Refuses,
    /// There is no such hook.
    Lacks,
}

/// Which of the driver's hooks waits for a word before it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slow {
    None,
    Pause,
    Prepare,
    /// `commit` or `abort`, whichever comes.
    End,
}

/// How a job is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    /// By the id of its place.
    Own,
    /// Not at all.
    Internal,
    /// By an id against the rules.
    Bad(&'static str),
}

/// What kind of job it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec {
    pub(crate) naming: Naming,
    pub(crate) part: Part,
    pub(crate) veto: Veto,
    pub(crate) finish: Finish,
    /// `prepare` fails with `late`.
    pub(crate) fails_late: bool,
    pub(crate) slow: Slow,
    pub(crate) finalize: Trigger,
    pub(crate) dismiss: Trigger,
    /// The transaction it is created in.
    pub(crate) group: Option<usize>,
    /// The context it is created on.
    pub(crate) context: usize,
}

/// What can be done to one job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Start,
    Discard,
    Pause,
    Resume,
    SoftCancel,
    Cancel,
    Complete,
    Finalize,
    Dismiss,
    /// A forced cancel that turns the main loop until the job has ended.
    CancelSync,
    /// The same for `complete`, or until only others can bring it on.
    CompleteSync,
    CheckSetSpeed,
    CheckChange,
    Hold,
    Release,
    /// Moves it to that context.
    Move(usize),
    StopOnError,
    ReportError,
    Wake,
    /// The body may end.
    Tell,
    /// The slow hook may return.
    LetGo,
}

/// Something that happens.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    /// A job is made in a place whose last one is gone; else its id is in use.
    Create(usize, Spec),
    /// Something is done to the job in a place.
    Do(usize, Verb),
    /// Every job is held.
    PauseAll,
    /// The oldest hold of every job ends.
    ResumeAll,
    /// All jobs are cancelled and forgotten, if that is not under way.
    CancelAll,
    /// So many milliseconds pass.
    Pass(u64),
}

/// A job of any kind.
fn specs() -> impl Strategy<Value = Spec> {
    let naming = prop_oneof![
        12 => Just(Naming::Own),
        3 => Just(Naming::Internal),
        1 => select(vec!["", "1x", "-a", "a b", "_", "jé", "a/b", "#block1"]).prop_map(Naming::Bad),
    ];
    let part = prop_oneof![
        1 => Just(Part::EndWell),
        1 => Just(Part::Fail),
        5 => Just(Part::UntilTold),
        3 => Just(Part::FailWhenTold),
        5 => Just(Part::Converge),
        1 => Just(Part::ConvergeAndFail),
        2 => Just(Part::Sleep),
        2 => Just(Part::Request),
        1 => Just(Part::RacedRequest),
        1 => Just(Part::BadRequest),
    ];
    let veto = prop_oneof![
        1 => Just(Veto::Never),
        2 => Just(Veto::WhileReady),
        1 => Just(Veto::Always),
    ];
    let finish = prop_oneof![
        3 => Just(Finish::Takes),
        1 => Just(Finish::Refuses),
        1 => Just(Finish::Lacks),
    ];
    let slow = prop_oneof![
        6 => Just(Slow::None),
        1 => Just(Slow::Pause),
        1 => Just(Slow::Prepare),
        1 => Just(Slow::End),
    ];
    let late = prop::bool::weighted(0.15);
    let trigger = || select(vec![Trigger::Auto, Trigger::Manual]);
    let group = select(vec![None, Some(0), Some(0), Some(1), Some(1), Some(2)]);
    let inside = (part, veto, finish, late, slow);
    let outside = (naming, trigger(), trigger(), group, 0..2_usize);
    (inside, outside).prop_map(|(inside, outside)| {
        let (part, veto, finish, fails_late, slow) = inside;
        let (naming, finalize, dismiss, group, context) = outside;
        Spec {
            naming,
            part,
            veto,
            finish,
            fails_late,
            slow,
            finalize,
            dismiss,
            group,
            context,
        }
    })
}

fn verbs() -> impl Strategy<Value = Verb> {
    prop_oneof![
        12 => Just(Verb::Start),
        1 => Just(Verb::Discard),
        6 => Just(Verb::Pause),
        6 => Just(Verb::Resume),
        3 => Just(Verb::SoftCancel),
        2 => Just(Verb::Cancel),
        4 => Just(Verb::Complete),
        4 => Just(Verb::Finalize),
        4 => Just(Verb::Dismiss),
        1 => Just(Verb::CancelSync),
        1 => Just(Verb::CompleteSync),
        1 => Just(Verb::CheckSetSpeed),
        1 => Just(Verb::CheckChange),
        3 => Just(Verb::Hold),
        3 => Just(Verb::Release),
        2 => (0..2_usize).prop_map(Verb::Move),
        1 => Just(Verb::StopOnError),
        1 => Just(Verb::ReportError),
        1 => Just(Verb::Wake),
        5 => Just(Verb::Tell),
        3 => Just(Verb::LetGo),
    ]
}

/// Anything that can happen.
fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![
        18 => (0..PLACES, specs()).prop_map(|(place, spec)| Act::Create(place, spec)),
        72 => (0..PLACES, verbs()).prop_map(|(place, verb)| Act::Do(place, verb)),
        2 => Just(Act::PauseAll),
        3 => Just(Act::ResumeAll),
        1 => Just(Act::CancelAll),
        3 => (1..4_u64).prop_map(Act::Pass),
    ]
}

/// A job that is likely to come to its end beside others.
fn joined_specs() -> impl Strategy<Value = Spec> {
    let part = prop_oneof![
        4 => Just(Part::EndWell),
        4 => Just(Part::UntilTold),
        2 => Just(Part::Converge),
        1 => Just(Part::FailWhenTold),
        1 => Just(Part::Request),
    ];
    let slow = prop_oneof![
        2 => Just(Slow::None),
        2 => Just(Slow::Prepare),
        1 => Just(Slow::End),
    ];
    (specs(), part, slow, 0..2_usize).prop_map(|(spec, part, slow, group)| Spec {
        naming: Naming::Own,
        part,
        slow,
        group: Some(group),
        ..spec
    })
}

/// What brings transactions to their ends, for better or worse.
fn joined_acts() -> impl Strategy<Value = Act> {
    let verb = prop_oneof![
        12 => Just(Verb::Start),
        2 => Just(Verb::Discard),
        2 => Just(Verb::SoftCancel),
        2 => Just(Verb::Cancel),
        2 => Just(Verb::Complete),
        5 => Just(Verb::Finalize),
        3 => Just(Verb::Dismiss),
        8 => Just(Verb::Tell),
        4 => Just(Verb::LetGo),
    ];
    prop_oneof![
        1 => (0..PLACES, joined_specs()).prop_map(|(place, spec)| Act::Create(place, spec)),
        3 => (0..PLACES, verb).prop_map(|(place, verb)| Act::Do(place, verb)),
    ]
}

/// Runs of acts, each with something that `beside` makes: most of any kind, some about transactions.
pub(crate) fn runs<T: Strategy>(beside: fn() -> T) -> impl Strategy<Value = Vec<(Act, T::Value)>> {
    prop_oneof![
        2 => vec((acts(), beside()), 1..ACTS_MAX),
        1 => vec((joined_acts(), beside()), 1..ACTS_MAX),
    ]
}
