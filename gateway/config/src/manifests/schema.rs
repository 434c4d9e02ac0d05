//! Checks of what the API server would refuse, with the schemas that it is given.
//!
//! A schema is the `openAPIV3Schema` of a definition, rules in CEL included. Those of Gateway API are
//! of its release 1.4.1 (standard channel, with the filter `CORS` of the experimental one), stripped of
//! their descriptions. As on the server, defaults are filled in before the rules of a value are asked.

use std::{collections::HashMap, fmt, sync::Arc};

use cel::{Context, Env, Value as Cel, objects::Key as CelKey};
use regex::Regex;
use serde_json::{Map, Value};

use super::Kind;

/// The metadata of every object.
const METADATA: &str = include_str!("schema/Metadata.json");

/// The schema of a kind, and the field that it is of; the whole object if there is none.
fn text(kind: Kind) -> Option<(&'static str, Option<&'static str>)> {
    const SPEC: Option<&str> = Some("spec");
    Some(match kind {
        Kind::GatewayClass => (include_str!("schema/GatewayClass.json"), SPEC),
        Kind::Gateway => (include_str!("schema/Gateway.json"), SPEC),
        Kind::HttpRoute => (include_str!("schema/HTTPRoute.json"), SPEC),
        Kind::ReferenceGrant => (include_str!("schema/ReferenceGrant.json"), SPEC),
        Kind::Service => (include_str!("schema/Service.json"), SPEC),
        Kind::EndpointSlice => (include_str!("schema/EndpointSlice.json"), None),
        Kind::Secret => (include_str!("schema/Secret.json"), None),
        Kind::AgentgatewayPolicy => (include_str!("schema/AgentgatewayPolicy.json"), SPEC),
        Kind::AgentgatewayBackend => (include_str!("schema/AgentgatewayBackend.json"), SPEC),
        Kind::Namespace => return None,
    })
}

/// A step to a part of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Field(String),
    Item(usize),
}

/// A fault and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) path: Vec<Step>,
    pub(super) message: String,
}

/// Checks an object as the API server would.
///
/// # Errors
/// The first thing that is wrong.
pub(super) fn check(kind: Kind, object: &mut Value) -> Result<(), Refusal> {
    let mut checker = Checker { path: Vec::new() };
    let metadata = parse(METADATA);
    checker.member(object, "metadata", &metadata)?;
    match text(kind) {
        Some((schema, Some(field))) => checker.member(object, field, &parse(schema)),
        Some((schema, None)) => checker.value(&parse(schema), object),
        None => Ok(()),
    }
}

/// A schema of ours: a test reads each.
fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

struct Checker {
    path: Vec<Step>,
}

impl Checker {
    fn refuse<T>(&self, message: impl Into<String>) -> Result<T, Refusal> {
        Err(Refusal {
            path: self.path.clone(),
            message: message.into(),
        })
    }

    fn within<T>(
        &mut self,
        step: Step,
        f: impl FnOnce(&mut Self) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        self.path.push(step);
        let result = f(self)?;
        self.path.pop();
        Ok(result)
    }

    /// A field that every object of a kind has.
    fn member(&mut self, object: &mut Value, field: &str, schema: &Value) -> Result<(), Refusal> {
        let Some(value) = object.get_mut(field).filter(|value| !value.is_null()) else {
            return self.refuse(format!("missing field {field:?}"));
        };
        self.within(Step::Field(field.to_owned()), |this| {
            this.value(schema, value)
        })
    }

    fn value(&mut self, schema: &Value, value: &mut Value) -> Result<(), Refusal> {
        if let Some(kind) = schema.get("type").and_then(Value::as_str) {
            let fits = match kind {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "boolean" => value.is_boolean(),
                "integer" => value.is_i64() || value.is_u64(),
                "number" => value.is_number(),
                _ => true,
            };
            if !fits {
                return self.refuse(format!(
                    "expected {}, found {}",
                    article(kind),
                    shown(value)
                ));
            }
        }
        if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
            && !allowed.contains(value)
        {
            let allowed: Vec<String> = allowed.iter().map(shown).collect();
            return self.refuse(format!(
                "{} is not supported; supported are {}",
                shown(value),
                allowed.join(", ")
            ));
        }
        match value {
            Value::Object(fields) => self.object(schema, fields)?,
            Value::Array(items) => self.array(schema, items)?,
            Value::String(text) => self.string(schema, text)?,
            Value::Number(number) => self.number(schema, number)?,
            Value::Bool(_) | Value::Null => {}
        }
        self.rules(schema, value)
    }

    fn object(&mut self, schema: &Value, fields: &mut Map<String, Value>) -> Result<(), Refusal> {
        // The server drops nulls where null is no value.
        fields.retain(|_, value| !value.is_null());
        let properties = schema.get("properties").and_then(Value::as_object);
        for (name, property) in properties.into_iter().flatten() {
            if let Some(default) = property.get("default")
                && !fields.contains_key(name)
            {
                fields.insert(name.clone(), default.clone());
            }
        }
        for name in strings(schema, "required") {
            if !fields.contains_key(name) {
                return self.refuse(format!("missing field {name:?}"));
            }
        }
        let preserve = schema
            .get("x-kubernetes-preserve-unknown-fields")
            .and_then(Value::as_bool)
            .unwrap_or_default();
        let additional = schema.get("additionalProperties");
        for (name, value) in fields.iter_mut() {
            let property = properties.and_then(|properties| properties.get(name));
            let Some(property) =
                property.or_else(|| additional.filter(|schema| schema.is_object()))
            else {
                if preserve || properties.is_none() {
                    continue;
                }
                return self.within(Step::Field(name.clone()), |this| {
                    this.refuse(format!("unknown field {name:?}"))
                });
            };
            self.within(Step::Field(name.clone()), |this| {
                this.value(property, value)
            })?;
        }
        self.count(
            schema,
            ["minProperties", "maxProperties"],
            fields.len(),
            "entries",
        )
    }

    fn array(&mut self, schema: &Value, items: &mut [Value]) -> Result<(), Refusal> {
        self.count(schema, ["minItems", "maxItems"], items.len(), "items")?;
        if let Some(item_schema) = schema.get("items") {
            for (index, item) in items.iter_mut().enumerate() {
                self.within(Step::Item(index), |this| this.value(item_schema, item))?;
            }
        }
        let keys: Vec<&str> = strings(schema, "x-kubernetes-list-map-keys").collect();
        let is_set = schema.get("x-kubernetes-list-type").and_then(Value::as_str) == Some("set");
        for (index, item) in items.iter().enumerate() {
            let same = |other: &Value| match keys.is_empty() {
                true => is_set && other == item,
                false => keys.iter().all(|key| other.get(key) == item.get(key)),
            };
            if items.iter().take(index).any(same) {
                return self.within(Step::Item(index), |this| this.refuse("is given twice"));
            }
        }
        Ok(())
    }

    fn string(&self, schema: &Value, text: &str) -> Result<(), Refusal> {
        self.count(
            schema,
            ["minLength", "maxLength"],
            text.chars().count(),
            "characters",
        )?;
        if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
            && let Ok(regex) = Regex::new(pattern)
            && !regex.is_match(text)
        {
            return self.refuse(format!("{text:?} does not match {pattern}"));
        }
        Ok(())
    }

    fn number(&self, schema: &Value, number: &serde_json::Number) -> Result<(), Refusal> {
        let value = number.as_f64().unwrap_or_default();
        let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
        if let Some(least) = bound("minimum").filter(|least| value < *least) {
            return self.refuse(format!("{number} is less than {least}"));
        }
        match bound("maximum").filter(|most| value > *most) {
            Some(most) => self.refuse(format!("{number} is more than {most}")),
            None => Ok(()),
        }
    }

    fn count(
        &self,
        schema: &Value,
        [least, most]: [&str; 2],
        count: usize,
        what: &str,
    ) -> Result<(), Refusal> {
        let bound = |name: &str| schema.get(name)?.as_u64();
        let count = count as u64;
        if let Some(least) = bound(least).filter(|least| count < *least) {
            return self.refuse(format!("has {count} {what}; at least {least} are needed"));
        }
        match bound(most).filter(|most| count > *most) {
            Some(most) => self.refuse(format!("has {count} {what}; at most {most} are allowed")),
            None => Ok(()),
        }
    }

    fn rules(&self, schema: &Value, value: &Value) -> Result<(), Refusal> {
        let rules = schema
            .get("x-kubernetes-validations")
            .and_then(Value::as_array);
        let Some(rules) = rules.filter(|rules| !rules.is_empty()) else {
            return Ok(());
        };
        let mut context = Context::with_env(Arc::new(Env::stdlib()));
        context.add_variable_from_value("self", to_cel(value));
        for rule in rules {
            let Some(text) = rule.get("rule").and_then(Value::as_str) else {
                continue;
            };
            let holds = cel::Program::compile(text)
                .map_err(|error| error.to_string())
                .and_then(|program| program.execute(&context).map_err(|error| error.to_string()));
            match holds {
                Ok(Cel::Bool(true)) => {}
                Ok(_) => {
                    let message = rule.get("message").and_then(Value::as_str);
                    return self.refuse(message.filter(|m| !m.is_empty()).unwrap_or(text));
                }
                // The server refuses what it cannot decide.
                Err(error) => return self.refuse(format!("cannot be checked ({text}): {error}")),
            }
        }
        Ok(())
    }
}

fn strings<'a>(schema: &'a Value, name: &str) -> impl Iterator<Item = &'a str> {
    let list = schema.get(name).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str)
}

fn article(kind: &str) -> &str {
    match kind {
        "object" => "a mapping",
        "array" => "a sequence",
        "string" => "a string",
        "boolean" => "a boolean",
        "integer" => "an integer",
        other => other,
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Object(_) => "a mapping".into(),
        Value::Array(_) => "a sequence".into(),
        other => other.to_string(),
    }
}

/// A value as rules see it. `namespace` is a reserved word of CEL and has another name there.
fn to_cel(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(value) => Cel::Bool(*value),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => Cel::Int(integer),
            (None, Some(number)) => Cel::Float(number),
            (None, None) => Cel::Null,
        },
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Array(items) => Cel::List(Arc::new(items.iter().map(to_cel).collect())),
        Value::Object(fields) => {
            let fields: HashMap<CelKey, Cel> = fields
                .iter()
                .map(|(name, value)| {
                    let name = match name.as_str() {
                        "namespace" => "__namespace__",
                        name => name,
                    };
                    (CelKey::from(name.to_owned()), to_cel(value))
                })
                .collect();
            Cel::Map(cel::objects::Map { map: fields.into() })
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => f.write_str(name),
            Self::Item(index) => write!(f, "[{index}]"),
        }
    }
}
