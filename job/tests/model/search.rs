//! Whether what the product did is one of the ways that the model could have gone.

use crate::{
    log::Entry,
    reference::{Heard, Look, Model, Said, Step},
};

/// More ways than this are not tried. A handful is usual; all jobs cancelled at once, of which each ends
/// by itself, have come to tens of thousands.
const TRIES_MAX: usize = 5_000_000;

/// What is left to explain of what the product did.
#[derive(Clone, Copy)]
struct Left<'a> {
    log: &'a [Entry],
    /// Where the next thing that was told is.
    told: usize,
    /// Where the next call of a hook is.
    hook: usize,
}

impl<'a> Left<'a> {
    fn new(log: &'a [Entry]) -> Self {
        let mut left = Self {
            log,
            told: 0,
            hook: 0,
        };
        left.told = left.find(0, is_told);
        left.hook = left.find(0, |entry| !is_told(entry));
        left
    }

    fn find(&self, from: usize, wanted: fn(&Entry) -> bool) -> usize {
        let rest = self.log.iter().skip(from);
        from + rest.take_while(|entry| !wanted(entry)).count()
    }

    /// Goes past what the model says next, if the product has said it next as well.
    ///
    /// Things told from another context may be heard later than the hooks that follow; everything
    /// else has its place among all.
    fn pass(&mut self, said: &Said) -> bool {
        if is_told(&said.entry) {
            let is_late = self.hook < self.told && said.heard == Heard::Now;
            if self.log.get(self.told) != Some(&said.entry) || is_late {
                return false;
            }
            self.told = self.find(self.told + 1, is_told);
        } else {
            // What was heard before a call was told before it.
            if self.log.get(self.hook) != Some(&said.entry) || self.told < self.hook {
                return false;
            }
            self.hook = self.find(self.hook + 1, |entry| !is_told(entry));
        }
        true
    }

    fn is_empty(&self) -> bool {
        self.told >= self.log.len() && self.hook >= self.log.len()
    }
}

fn is_told(entry: &Entry) -> bool {
    matches!(entry, Entry::Told(..))
}

/// Brings the model to rest the way that the product went, given what the product showed.
///
/// # Errors
///
/// What the model would have done, when there is no such way.
pub(crate) fn follow(model: &mut Model, log: &[Entry], seen: &Look) -> Result<(), String> {
    let mut tries = 0;
    if let Some(end) = explain(model.clone(), Left::new(log), seen, &mut tries) {
        *model = end;
        return Ok(());
    }
    if tries > TRIES_MAX {
        return Err(format!("nothing was found in {TRIES_MAX} tries"));
    }
    Err(differ(model.clone(), log, seen))
}

fn explain(mut model: Model, mut left: Left<'_>, seen: &Look, tries: &mut usize) -> Option<Model> {
    loop {
        *tries += 1;
        let said = std::mem::take(&mut model.said);
        if *tries > TRIES_MAX || !said.iter().all(|said| left.pass(said)) {
            return None;
        }
        let steps = model.steps();
        match steps.as_slice() {
            [] => return (left.is_empty() && model.look() == *seen).then_some(model),
            [step] => model.step(*step),
            [others @ .., last] => {
                let mut attempt = |&step: &Step| {
                    let mut other = model.clone();
                    other.step(step);
                    explain(other, left, seen, tries)
                };
                let end = others.iter().find_map(&mut attempt);
                if end.is_some() {
                    return end;
                }
                model.step(*last);
            }
        }
    }
}

/// One of the ways that the model could have gone, beside what the product did.
fn differ(mut model: Model, log: &[Entry], seen: &Look) -> String {
    let mut want = Vec::new();
    loop {
        want.extend(model.said.drain(..).map(|said| said.entry));
        match model.steps().first() {
            Some(&step) => model.step(step),
            None => break,
        }
    }
    let wanted = model.look();
    let mut text = format!("the product did {log:?}\nthe model may do {want:?}");
    if wanted != *seen {
        text += &format!("\nthe product shows {seen:?}\nthe model shows {wanted:?}");
    }
    text
}
