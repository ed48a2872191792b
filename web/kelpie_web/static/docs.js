// Draws the API reference. validatorUrl: null keeps Swagger UI from sending the description to a service.
"use strict";

// What Swagger UI draws without regard for keyboards and screen readers: a link inside the button that opens a
// call, no heading between that of the page and those of the groups, an introduction outside all landmarks.
const readable = () => ({
  wrapComponents: {
    InfoContainer: (Original, { React }) => (props) =>
      React.createElement("section", { "aria-label": "About" }, React.createElement(Original, props)),
    DeepLink: (_, { React }) => ({ text }) => React.createElement("span", null, text),
    operations: (Original, { React }) => (props) =>
      React.createElement(
        React.Fragment,
        null,
        React.createElement("h2", { className: "unseen" }, "Calls"),
        React.createElement(Original, props),
      ),
  },
});

// What it draws when a call is opened has no names, and scrolls for mice only.
function mend() {
  for (const choice of document.querySelectorAll("tr[data-param-name] select:not([aria-label])")) {
    choice.setAttribute("aria-label", choice.closest("tr").dataset.paramName);
  }
  for (const choice of document.querySelectorAll("select.content-type:not([aria-label], [id])")) {
    choice.setAttribute("aria-label", "Content type");
  }
  for (const example of document.querySelectorAll("pre.microlight:not([tabindex])")) {
    example.tabIndex = 0;
  }
  for (const table of document.querySelectorAll("table.responses-table[role]")) {
    table.removeAttribute("role");
  }
}
new MutationObserver(mend).observe(document.getElementById("docs"), { childList: true, subtree: true });

SwaggerUIBundle({
  url: document.getElementById("docs").dataset.openapi,
  dom_id: "#docs",
  deepLinking: true,
  docExpansion: "list",
  persistAuthorization: false,
  validatorUrl: null,
  plugins: [readable],
});
