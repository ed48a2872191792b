// Draws the API reference. validatorUrl: null keeps Swagger UI from sending the description to a service.
"use strict";
SwaggerUIBundle({
  url: document.getElementById("docs").dataset.openapi,
  dom_id: "#docs",
  deepLinking: true,
  docExpansion: "list",
  persistAuthorization: false,
  validatorUrl: null,
});
