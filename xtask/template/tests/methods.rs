//! Methods of texts and lists: what Python writes.

use rill_template::{Conversation, Template, Words};

/// Templates, and what Python 3 prints for the same expression.
const CASES: [(&str, &str); 16] = [
    ("' a  b c '.split()", "['a', 'b', 'c']"),
    ("' a  b c '.split(none, 1)", "['a', 'b c ']"),
    ("' a  b c '.split(maxsplit=0)", "['a  b c ']"),
    ("' a  b c '.rsplit()", "['a', 'b', 'c']"),
    ("' a  b c '.rsplit(none, 1)", "[' a  b', 'c']"),
    ("' a  b c '.rsplit(maxsplit=0)", "[' a  b c']"),
    ("'   '.split()", "[]"),
    ("'a,b,,c'.split(',', 2)", "['a', 'b', ',c']"),
    ("'a,b,,c'.rsplit(',', 2)", "['a,b', '', 'c']"),
    ("'a\\r\\nb\\n\\nc'.splitlines()", "['a', 'b', '', 'c']"),
    ("'a\\r\\nb\\n'.splitlines(true)", "['a\\r\\n', 'b\\n']"),
    ("''.splitlines()", "[]"),
    ("', '.join(['a', 'b'])", "a, b"),
    ("'{0:>5}|{a}|{1[0]}'.format('xyz', ['y'], a='é')", "  xyz|é|y"),
    ("[[1, 2, 1].count(1), [1, 2].index(2)]", "[2, 1]"),
    ("['ab'.startswith(('x', 'a')), 'ab'.endswith(('x',))]", "[True, False]"),
];

#[test]
fn methods_are_python_s() {
    for (expression, expected) in CASES {
        let source = format!("{{{{ {expression} }}}}");
        let template = Template::new(&source, Words::default()).expect(expression);
        let rendered = template.render(&Conversation::new(Vec::new())).expect(expression);
        assert_eq!(rendered.text(), expected, "{expression}");
    }
}
