//! `longshore ctl job watch`: how far jobs are, until they have ended.

use std::{collections::BTreeMap, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::{client::Client, show};
use crate::cli::{
    Done, Session,
    exit::{Exit, Failure},
    output::{Style, fields},
};

/// How often is looked.
const LOOK: Duration = Duration::from_millis(500);

/// Shows jobs until all have ended, or the one that was asked for.
pub(super) fn run(
    id: Option<&str>,
    client: &mut Client,
    session: &Session,
) -> Result<Done, Failure> {
    let mut shown = BTreeMap::new();
    let mut failed: Vec<String> = Vec::new();
    loop {
        let jobs = show::all_jobs(client)?;
        failed.extend(client.take_events().iter().filter_map(failure_of));
        let is_meant = |job: &&Value| id.is_none_or(|id| job["id"] == id);
        let open: Vec<&Value> = jobs
            .iter()
            .filter(is_meant)
            .filter(|job| job["status"] != "concluded")
            .collect();
        draw(&open, &mut shown, session);
        if open.is_empty() {
            break;
        }
        if let Err(exit) = session.events.sleep(LOOK) {
            return Ok(Done::ending(exit, fields(json!({ "failed": failed }))));
        }
    }
    let exit = if failed.is_empty() {
        Exit::Ok
    } else {
        Exit::Failed
    };
    for text in &failed {
        session.output.say(text);
    }
    Ok(Done::ending(exit, fields(json!({ "failed": failed }))))
}

/// What an event tells of a job that has failed.
fn failure_of(event: &Value) -> Option<String> {
    let error = event["data"]["error"].as_str()?;
    let id = event["data"]["device"].as_str()?;
    Some(format!("job '{id}' failed: {error}"))
}

/// A bar for each job on a terminal, else a line or a record for each that has moved.
fn draw(open: &[&Value], shown: &mut BTreeMap<String, (ProgressBar, String)>, session: &Session) {
    let output = &session.output;
    shown.retain(|id, (bar, _)| {
        let is_open = open.iter().any(|job| job["id"] == id.as_str());
        if !is_open {
            bar.finish();
        }
        is_open
    });
    for job in open {
        let id = job["id"].as_str().unwrap_or("?").to_owned();
        let status = job["status"].as_str().unwrap_or("?");
        let line = format!("{id}: {status}, {} %", show::percent(job));
        let (bar, last) = shown.entry(id).or_insert_with(|| {
            let style = ProgressStyle::with_template("{msg:40!} {wide_bar}");
            let bar = ProgressBar::new(100);
            let bar = match output.style() {
                Style::Bar => output.bars().add(bar),
                Style::Plain | Style::Json | Style::None => ProgressBar::hidden(),
            };
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            (bar, String::new())
        });
        bar.set_position(show::percent(job));
        bar.set_message(line.clone());
        if *last == line {
            continue;
        }
        last.clone_from(&line);
        match output.style() {
            Style::Plain => output.note(&line),
            Style::Json => output.record("progress", fields((*job).clone())),
            Style::Bar | Style::None => {}
        }
    }
}
