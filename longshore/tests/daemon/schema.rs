//! `query-qmp-schema`: that it has what there is, and that what is sent is as it says.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::bare::{Qmp, World, is_installed, skip};

/// What a daemon says of its commands, events and types.
struct Schema {
    entities: BTreeMap<String, Value>,
}

impl Schema {
    fn of(client: &mut Qmp) -> Self {
        let reply = client.run("query-qmp-schema", json!({}));
        let mut entities = BTreeMap::new();
        for entity in reply.as_array().unwrap() {
            let before = entities.insert(text(&entity["name"]), entity.clone());
            assert_eq!(before, None, "two entities have one name");
        }
        Self { entities }
    }

    /// What is called so; it must be there.
    #[track_caller]
    fn find(&self, name: &Value) -> &Value {
        let found = name.as_str().and_then(|name| self.entities.get(name));
        found.unwrap_or_else(|| panic!("{name} is not described"))
    }

    /// The names of all commands, or all events.
    fn all(&self, meta_type: &str) -> BTreeSet<String> {
        let entities = self.entities.values();
        let of_kind = entities.filter(|entity| entity["meta-type"] == meta_type);
        of_kind.map(|entity| text(&entity["name"])).collect()
    }

    /// Fails unless `value` is of the type.
    #[track_caller]
    fn check(&self, type_name: &Value, value: &Value) {
        if let Err(reason) = self.fits(type_name, value) {
            panic!("{reason}, in {value:#}");
        }
    }

    fn fits(&self, type_name: &Value, value: &Value) -> Result<(), String> {
        let entity = self.find(type_name);
        let is_fine = match entity["meta-type"].as_str().unwrap() {
            "builtin" => match entity["json-type"].as_str().unwrap() {
                "string" => value.is_string(),
                "int" => value.is_i64() || value.is_u64(),
                "number" => value.is_number(),
                "boolean" => value.is_boolean(),
                "null" => value.is_null(),
                "value" => true,
                other => return Err(format!("there is no JSON type {other}")),
            },
            "enum" => members(entity).iter().any(|it| it["name"] == *value),
            "array" => {
                let items = value
                    .as_array()
                    .ok_or_else(|| format!("no list: {value}"))?;
                let mut items = items.iter();
                return items.try_for_each(|item| self.fits(&entity["element-type"], item));
            }
            "alternate" => {
                let mut choices = members(entity).iter();
                choices.any(|it| self.fits(&it["type"], value).is_ok())
            }
            "object" => return self.fits_object(entity, value),
            other => return Err(format!("{type_name} is no type but of kind {other}")),
        };
        let reason = || format!("{value} is not as {entity} has it");
        is_fine.then_some(()).ok_or_else(reason)
    }

    fn fits_object(&self, entity: &Value, value: &Value) -> Result<(), String> {
        let object = value.as_object();
        let object = object.ok_or_else(|| format!("no object: {value}"))?;
        let known = self.members_of(entity, value);
        for member in &known {
            let name = text(&member["name"]);
            match object.get(&name) {
                Some(value) => self.fits(&member["type"], value)?,
                None if member.get("default").is_some() => {}
                None => return Err(format!("'{name}' is missing")),
            }
        }
        let is_known = |name: &String| known.iter().any(|it| it["name"] == **name);
        match object.keys().find(|name| !is_known(name)) {
            Some(name) => Err(format!("'{name}' is not described")),
            None => Ok(()),
        }
    }

    /// Its own members, and those of the branch that its tag chooses.
    fn members_of(&self, entity: &Value, value: &Value) -> Vec<Value> {
        let mut all = members(entity).to_vec();
        let Some(tag) = entity["tag"].as_str() else {
            return all;
        };
        let variants = entity["variants"].as_array().unwrap();
        let chosen = variants.iter().find(|it| it["case"] == value[tag]);
        if let Some(variant) = chosen {
            all.extend(members(self.find(&variant["type"])).to_vec());
        }
        all
    }

    /// Its data as `name: JSON type`, with a question mark where it may be missing.
    fn shape(&self, event: &str) -> BTreeSet<String> {
        let data = self.find(&self.find(&json!(event))["arg-type"]);
        let shape = members(data).iter().map(|member| {
            let entity = self.find(&member["type"]);
            let kind = entity["json-type"].as_str().unwrap_or("string");
            let mark = member.get("default").map_or("", |_| "?");
            format!("{}{mark}: {kind}", text(&member["name"]))
        });
        shape.collect()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn members(entity: &Value) -> &[Value] {
    entity["members"].as_array().map_or(&[], Vec::as_slice)
}

/// Takes what happens up to an event that `fits`.
fn take_until(client: &mut Qmp, taken: &mut Vec<Value>, fits: impl Fn(&Value) -> bool) {
    loop {
        let event = client.next_event();
        let is_last = fits(&event);
        taken.push(event);
        if is_last {
            return;
        }
    }
}

fn job_is(status: &str) -> impl Fn(&Value) -> bool {
    move |event| event["event"] == "JOB_STATUS_CHANGE" && event["data"]["status"] == status
}

fn named(name: &str) -> impl Fn(&Value) -> bool {
    move |event| event["event"] == name
}

/// Adds the nodes `s`, `t`, and `bad`, which fails what it is asked.
fn add_nodes(client: &mut Qmp) {
    for name in ["s", "t", "b"] {
        let node = json!({ "driver": "null-co", "node-name": name, "size": 1 << 20 });
        client.run("blockdev-add", node);
    }
    let rule = json!({ "event": "none", "errno": 5 });
    let bad = json!({
        "driver": "blkdebug", "node-name": "bad", "image": "b", "inject-error": [rule],
    });
    client.run("blockdev-add", bad);
}

fn job(target: &str, more: Value) -> Value {
    let mut job = json!({ "job-id": "j", "device": "s", "target": target, "sync": "full" });
    let Value::Object(more) = more else {
        unreachable!("members are given as an object")
    };
    job.as_object_mut().unwrap().extend(more);
    job
}

/// Asks everything that a schema describes and that needs no arguments, and checks the answers.
fn check_queries(client: &mut Qmp, schema: &Schema) {
    let commands = schema.all("command");
    let queries = commands.iter().filter(|name| name.contains("query-"));
    for name in queries.filter(|name| *name != "query-qmp-schema") {
        let command = schema.find(&json!(name));
        let answer = client.run(name, json!({}));
        schema.check(&command["ret-type"], &answer);
    }
    let answer = client.run("query-blockstats", json!({ "query-nodes": true }));
    let command = schema.find(&json!("query-blockstats"));
    schema.check(&command["ret-type"], &answer);
}

#[test]
fn every_command_that_is_listed_is_described_and_no_other() {
    let world = World::new();
    let daemon = world.start(&[]);
    let mut client = daemon.client();
    let schema = Schema::of(&mut client);
    let listed = client.run("query-commands", json!({}));
    let listed = listed.as_array().unwrap().iter();
    let listed: BTreeSet<String> = listed.map(|it| text(&it["name"])).collect();
    assert_eq!(schema.all("command"), listed);
    for entity in schema.entities.values() {
        for reference in ["arg-type", "ret-type", "element-type"] {
            if let Some(name) = entity.get(reference) {
                schema.find(name);
            }
        }
        for member in members(entity) {
            if let Some(name) = member.get("type") {
                schema.find(name);
            }
        }
    }
    drop(client);
    daemon.quit();
}

#[test]
fn what_happens_and_what_is_answered_is_as_the_schema_has_it() {
    let world = World::new();
    let daemon = world.start(&[]);
    let mut client = daemon.client();
    let schema = Schema::of(&mut client);
    let mut events = Vec::new();
    add_nodes(&mut client);

    let threshold = json!({ "node-name": "t", "write-threshold": 4096 });
    client.run("block-set-write-threshold", threshold);
    client.run(
        "blockdev-backup",
        job("t", json!({ "auto-finalize": false })),
    );
    take_until(&mut client, &mut events, job_is("pending"));
    check_queries(&mut client, &schema);
    client.run("job-finalize", json!({ "id": "j" }));
    take_until(&mut client, &mut events, job_is("null"));

    client.run("blockdev-mirror", job("t", json!({})));
    take_until(&mut client, &mut events, named("BLOCK_JOB_READY"));
    check_queries(&mut client, &schema);
    client.run("job-cancel", json!({ "id": "j" }));
    take_until(&mut client, &mut events, job_is("null"));

    client.run("blockdev-backup", job("bad", json!({})));
    take_until(&mut client, &mut events, job_is("null"));

    let address = json!({ "type": "unix", "data": { "path": world.at("nbd") } });
    client.run("nbd-server-start", json!({ "addr": address }));
    let export = json!({ "type": "nbd", "id": "e", "node-name": "s" });
    client.run("block-export-add", export);
    check_queries(&mut client, &schema);
    client.run("block-export-del", json!({ "id": "e" }));
    take_until(&mut client, &mut events, named("BLOCK_EXPORT_DELETED"));

    for event in &events {
        let described = schema.find(&event["event"]);
        assert_eq!(described["meta-type"], "event");
        schema.check(&described["arg-type"], &event["data"]);
    }
    let told: BTreeSet<String> = events.iter().map(|it| text(&it["event"])).collect();
    assert_eq!(told, schema.all("event"), "what is described does happen");
    drop(client);
    daemon.quit();
}

#[test]
fn the_reference_describes_our_events_and_the_standing_of_commands_alike() {
    if !is_installed("qemu-storage-daemon") {
        return skip("qemu-storage-daemon (Debian package qemu-utils)");
    }
    let (ours, theirs) = (World::new(), World::new());
    let daemon = ours.start(&[]);
    let schema = Schema::of(&mut daemon.client());
    let reference = theirs.start_reference();
    let wanted = Schema::of(&mut reference.client());
    for event in schema.all("event") {
        assert_eq!(schema.shape(&event), wanted.shape(&event), "{event}");
    }
    let common: Vec<_> = schema.all("command").into_iter().collect();
    let common = common
        .iter()
        .filter(|name| wanted.entities.contains_key(*name));
    for name in common {
        let features = |schema: &Schema| schema.find(&json!(name)).get("features").cloned();
        assert_eq!(features(&schema), features(&wanted), "{name}");
    }
    daemon.quit();
    reference.quit();
}
