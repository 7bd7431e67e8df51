{{- define "hostport.selector" -}}
app.kubernetes.io/name: hostport
{{- end }}

{{- define "hostport.labels" -}}
{{ include "hostport.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion }}
{{- end }}

{{- define "hostport.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}
{{- else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The address that the agent listens on: the node's own only for whom it is told to. */ -}}
{{- define "hostport.metricsHost" -}}
{{- with .Values.metrics }}
{{- if .host }}{{ .host }}
{{- else if .podMonitor.enabled }}$(HOST_IP)
{{- else }}127.0.0.1
{{- end }}
{{- end }}
{{- end }}

{{- /* A probe comes from the node: the pod's address is the node's. */ -}}
{{- define "hostport.probeHost" -}}
{{- $host := include "hostport.metricsHost" . }}
{{- if not (contains "HOST_IP" $host) }}, host: {{ $host | trimPrefix "[" | trimSuffix "]" | quote }}
{{- end }}
{{- end }}

{{- /* The agent talks to the API server for events, to tell an uninstallation from an update, and to watch pods. */ -}}
{{- define "hostport.token" -}}
{{- or .Values.events .Values.cleanup.enabled .Values.podPorts }}
{{- end }}
