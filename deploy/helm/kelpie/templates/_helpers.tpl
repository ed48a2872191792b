{{- define "kelpie.name" -}}
{{- default .Release.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "kelpie.selector" -}}
app.kubernetes.io/name: kelpie
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "kelpie.labels" -}}
{{ include "kelpie.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "kelpie.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* What every container is held to. */}}
{{- define "kelpie.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
capabilities: { drop: [ALL] }
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "kelpie.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "kelpie.env" -}}
{{- range $name, $value := . }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}

{{/* Further keys of the server's Secret as settings: oidc_ca is KELPIE_OIDC_CA_FILE. URLs of Redis name redis_*. */}}
{{- define "kelpie.extraEnv" -}}
{{- range .keys }}
{{- if not (hasPrefix "redis_" .) }}
- { name: KELPIE_{{ . | trimSuffix (printf "_%s" $.component) | upper }}_FILE, value: /run/secrets/kelpie/{{ . }} }
{{- end }}
{{- end }}
{{- end -}}

{{- define "kelpie.extraItems" -}}
{{- range . }}
- { key: {{ . }}, path: {{ . }} }
{{- end }}
{{- end -}}

{{- define "kelpie.scheme" -}}
{{ empty .Values.api.tlsSecret | ternary "http" "https" }}
{{- end -}}
