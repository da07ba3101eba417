"""What a file's name says about it."""

LANGUAGES = {
    "c": "C",
    "cc": "C++",
    "cpp": "C++",
    "cs": "C#",
    "ex": "Elixir",
    "exs": "Elixir",
    "go": "Go",
    "h": "C header",
    "hs": "Haskell",
    "java": "Java",
    "js": "JavaScript",
    "jsx": "JavaScript",
    "kt": "Kotlin",
    "lua": "Lua",
    "mjs": "JavaScript",
    "php": "PHP",
    "pl": "Perl",
    "py": "Python",
    "r": "R",
    "rb": "Ruby",
    "rs": "Rust",
    "scala": "Scala",
    "sh": "Shell",
    "sql": "SQL",
    "swift": "Swift",
    "ts": "TypeScript",
    "tsx": "TypeScript",
    "vue": "Vue",
    "zig": "Zig",
}
"""Programming languages by extension."""

MARKUP = {
    "adoc": "AsciiDoc",
    "css": "CSS",
    "csv": "CSV",
    "html": "HTML",
    "ini": "INI",
    "json": "JSON",
    "md": "Markdown",
    "org": "Org",
    "rst": "reStructuredText",
    "tex": "TeX",
    "toml": "TOML",
    "txt": "text",
    "xml": "XML",
    "yaml": "YAML",
    "yml": "YAML",
}
"""Prose, data and configuration by extension."""

MANIFESTS = {
    "pyproject.toml": "a Python project",
    "setup.py": "a Python project",
    "package.json": "a JavaScript or TypeScript project",
    "Cargo.toml": "a Rust project",
    "go.mod": "a Go module",
    "pom.xml": "a Java project (Maven)",
    "build.gradle": "a Java project (Gradle)",
    "Gemfile": "a Ruby project",
    "composer.json": "a PHP project",
    "mix.exs": "an Elixir project",
    "CMakeLists.txt": "a C or C++ project (CMake)",
}
"""What a directory is that holds such a file, the more telling ones first."""

AUTOMATION = (
    ".github",
    ".gitlab-ci.yml",
    "Jenkinsfile",
    "Makefile",
    "Dockerfile",
    "docker-compose.yml",
    "tox.ini",
    "justfile",
)
"""Names of what builds, tests or ships the whole."""
