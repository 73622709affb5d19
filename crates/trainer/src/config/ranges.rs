//! Values out of range, by what the schema says of each key.

use super::faults::Check;
use serde_json::Value as Schema;
use toml::{Table, Value};

/// The numbers a key may hold, as JSON Schema says it: `minimum`, `maximum` and their exclusive
/// forms. `x-unit` is what they count, `x-why` why they are held to it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Range<'a> {
    least: Option<f64>,
    above: Option<f64>,
    most: Option<f64>,
    below: Option<f64>,
    unit: Option<&'a str>,
    why: Option<&'a str>,
    whole: bool,
}

impl<'a> Range<'a> {
    /// What the schema of a value says.
    pub(super) fn of(schema: &'a Schema) -> Self {
        let number = |key: &str| schema[key].as_f64();
        // An optional value may be null, too.
        let whole = schema["type"] == "integer" || schema["type"][0] == "integer";
        Self {
            // That unsigned numbers are not negative goes without saying.
            least: number("minimum").filter(|&least| !whole || least != 0.0),
            above: number("exclusiveMinimum"),
            most: number("maximum"),
            below: number("exclusiveMaximum"),
            unit: schema["x-unit"].as_str(),
            why: schema["x-why"].as_str(),
            whole,
        }
    }

    fn holds(&self, value: f64) -> bool {
        value.is_finite()
            && self.least.is_none_or(|least| value >= least)
            && self.above.is_none_or(|above| value > above)
            && self.most.is_none_or(|most| value <= most)
            && self.below.is_none_or(|below| value < below)
    }

    /// The range in words, such as `1 to 4096 pixels` or `a probability from 0 to 1`; `None` if any
    /// number will do. `noun` is what to call numbers that count nothing.
    pub(super) fn in_words(&self, noun: &str) -> Option<String> {
        let unit = self.unit.unwrap_or_default();
        let text = match (self.least, self.above, self.most, self.below) {
            (None, None, None, None) => return None,
            // The bound of a type says nothing to people.
            (None, None, Some(most), None) if self.whole && most > 1e15 => "a number below 2^63".to_owned(),
            (Some(least), _, Some(most), _) if self.whole => format!("{} to {} {unit}", grouped(least), grouped(most)),
            (Some(least), ..) if self.whole && least == 1.0 => format!("at least 1 {}", unit.trim_end_matches('s')),
            (Some(least), ..) if self.whole => format!("at least {} {unit}", grouped(least)),
            (.., Some(most), _) if self.whole => format!("at most {} {unit}", grouped(most)),
            bounds => {
                let noun = self.unit.unwrap_or(noun);
                match bounds {
                    (Some(least), _, Some(most), _) => format!("{noun} from {least} to {most}"),
                    (Some(least), _, _, Some(below)) => format!("{noun} from {least} to below {below}"),
                    (_, Some(above), Some(most), _) => format!("{noun} above {above}, up to {most}"),
                    (_, Some(above), ..) => format!("{noun} above {above}"),
                    (Some(least), ..) => format!("{noun} of at least {least}"),
                    (_, _, Some(most), _) => format!("{noun} of at most {most}"),
                    (.., below) => format!("{noun} below {}", below.unwrap_or_default()),
                }
            }
        };
        let why = self.why.map(|why| format!(": {why}")).unwrap_or_default();
        Some(format!("{}{why}", text.trim_end()))
    }
}

/// 1000000 as 1,000,000; numbers below 10,000 as they are.
fn grouped(number: f64) -> String {
    let digits = format!("{number}");
    if number < 10_000.0 {
        return digits;
    }
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap_or_default()).collect();
    groups.join(",")
}

/// Reports every value of the configuration that is out of the range its schema gives.
pub(super) fn check(schema: &Schema, config: &Table, check: &mut Check) {
    for (section, values) in config {
        let keys = properties(schema, section);
        for (key, value) in values.as_table().into_iter().flatten() {
            check_value(&format!("{section}.{key}"), &keys[key], value, check);
        }
    }
}

/// The schemas of a section's keys.
pub(super) fn properties<'a>(schema: &'a Schema, section: &str) -> &'a Schema {
    &resolved(schema, &schema["properties"][section])["properties"]
}

/// What a schema refers to, or itself.
pub(super) fn resolved<'a>(root: &'a Schema, schema: &'a Schema) -> &'a Schema {
    match schema["$ref"].as_str().and_then(|reference| reference.strip_prefix('#')) {
        Some(pointer) => root.pointer(pointer).unwrap_or(schema),
        None => schema,
    }
}

fn check_value(key: &str, schema: &Schema, value: &Value, check: &mut Check) {
    let (range, numbers, noun) = match value {
        Value::Array(values) => (Range::of(&schema["items"]), values.iter().collect::<Vec<_>>(), "numbers"),
        // A ramp: its times have a range of their own.
        Value::Table(table) => {
            let is_time = |key: &str| ["epochs", "start"].contains(&key);
            let values = table.iter().filter(|(key, _)| !is_time(key)).map(|(_, value)| value);
            (Range::of(schema), values.collect(), "numbers")
        }
        value => (Range::of(schema), vec![value], "a number"),
    };
    let number = |value: &&Value| value.as_float().or_else(|| value.as_integer().map(|whole| whole as f64));
    if !numbers.iter().filter_map(number).all(|number| range.holds(number)) {
        let words = range.in_words(noun).unwrap_or_else(|| noun.to_owned());
        check.require(key, false, &format!("expected {words}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ranges_read_as_words() {
        let words = |schema: Schema| Range::of(&schema).in_words("a number").unwrap_or_default();
        for (schema, expected) in [
            (json!({ "type": "integer", "minimum": 1, "maximum": 4096, "x-unit": "pixels" }), "1 to 4096 pixels"),
            (json!({ "type": "integer", "minimum": 1, "maximum": 1_000_000 }), "1 to 1,000,000"),
            (json!({ "type": "integer", "minimum": 1, "x-unit": "steps" }), "at least 1 step"),
            (
                json!({ "type": ["integer", "null"], "minimum": 2, "x-unit": "images", "x-why": "so it is" }),
                "at least 2 images: so it is",
            ),
            (json!({ "type": "integer", "minimum": 0, "maximum": 1024, "x-unit": "threads" }), "at most 1024 threads"),
            (json!({ "type": "integer", "minimum": 0 }), ""),
            (json!({ "type": "number", "minimum": 0.0, "maximum": 1.0, "x-unit": "a share" }), "a share from 0 to 1"),
            (json!({ "type": "number", "exclusiveMinimum": 0.0 }), "a number above 0"),
            (json!({ "type": "number", "minimum": 0.0 }), "a number of at least 0"),
            (json!({ "minimum": 0.0, "exclusiveMaximum": 1.0 }), "a number from 0 to below 1"),
            (json!({ "exclusiveMinimum": 0.0, "maximum": 1.0 }), "a number above 0, up to 1"),
            (json!({ "type": "string" }), ""),
        ] {
            assert_eq!(words(schema), expected);
        }
    }
}
