//! Jobs, nodes and exports as tables.

use serde_json::{Value, json};

use super::client::Client;
use crate::cli::{exit::Failure, units};

/// All jobs, newest first, with what is known of block jobs besides.
pub(super) fn all_jobs(client: &mut Client) -> Result<Vec<Value>, Failure> {
    let jobs = client.run("query-jobs", json!({}))?;
    let block_jobs = client.run("query-block-jobs", json!({}))?;
    let mut jobs = jobs.as_array().cloned().unwrap_or_default();
    for job in &mut jobs {
        let mut likely = block_jobs.as_array().into_iter().flatten();
        let block_job = likely.find(|it| it["device"] == job["id"]);
        if let (Some(block_job), Some(members)) = (block_job, job.as_object_mut()) {
            for name in ["speed", "paused", "io-status", "actively-synced"] {
                let value = block_job.get(name).cloned();
                members.extend(value.map(|value| (name.to_owned(), value)));
            }
        }
    }
    Ok(jobs)
}

/// How far a job is, in percent.
pub(super) fn percent(job: &Value) -> u64 {
    units::percent(
        number(job, "current-progress"),
        number(job, "total-progress"),
    )
}

/// A table of jobs.
pub(super) fn jobs(jobs: &[Value]) -> Vec<String> {
    let rows = jobs.iter().map(|job| {
        let status = match job["paused"].as_bool() {
            Some(true) if job["status"] == "running" => "running (held)".to_owned(),
            _ => text(job, "status"),
        };
        let speed = match number(job, "speed") {
            0 => "-".to_owned(),
            speed => units::rate(speed),
        };
        let (done, total) = (
            number(job, "current-progress"),
            number(job, "total-progress"),
        );
        let progress = format!("{:3} %", percent(job));
        let bytes = units::bytes_of(done, total);
        let error = text(job, "error");
        vec![
            text(job, "id"),
            text(job, "type"),
            status,
            progress,
            bytes,
            speed,
            error,
        ]
    });
    table(
        &["JOB", "TYPE", "STATUS", "DONE", "BYTES", "LIMIT", "ERROR"],
        rows,
    )
}

/// A table of nodes.
pub(super) fn nodes(nodes: &Value) -> Vec<String> {
    let rows = list(nodes).map(|node| {
        let access = if node["ro"] == true { "ro" } else { "rw" };
        let size = units::bytes(number(&node["image"], "virtual-size"));
        vec![
            text(node, "node-name"),
            text(node, "drv"),
            access.to_owned(),
            size,
            text(node, "file"),
        ]
    });
    table(&["NODE", "DRIVER", "ACCESS", "SIZE", "FILE"], rows)
}

/// A table of exports.
pub(super) fn exports(exports: &Value) -> Vec<String> {
    let rows = list(exports).map(|export| {
        let state = if export["shutting-down"] == true {
            "closing"
        } else {
            "open"
        };
        let names = ["id", "type", "node-name"].map(|name| text(export, name));
        names.into_iter().chain([state.to_owned()]).collect()
    });
    table(&["EXPORT", "TYPE", "NODE", "STATE"], rows)
}

/// JSON for people.
pub(super) fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string())
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or(0)
}

/// A text of a daemon's, which cannot play tricks on a terminal.
fn text(value: &Value, name: &str) -> String {
    let text = value[name].as_str().unwrap_or("-");
    text.chars()
        .map(|it| if it.is_control() { '?' } else { it })
        .collect()
}

/// Columns as wide as they have to be.
fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Vec<String> {
    let head = head.iter().map(|&word| word.to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let line = |row: &Vec<String>| {
        let cells = row.iter().enumerate();
        let cells = cells.map(|(column, cell)| format!("{cell:<0$}", width(column)));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let nodes = json!([
            { "node-name": "a\u{1b}", "drv": "null-co", "ro": true, "image": { "virtual-size": 0 } },
            { "node-name": "longer", "drv": "raw", "ro": false, "file": "/f", "image": {} },
        ]);
        let want = [
            "NODE    DRIVER   ACCESS  SIZE  FILE",
            "a?      null-co  ro      0 B   -",
            "longer  raw      rw      0 B   /f",
        ];
        assert_eq!(super::nodes(&nodes), want);
    }
}
